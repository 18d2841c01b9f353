"""`volcast explore`: what a data set is like, before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from common.cli import FiniteRange, config_option, examples, json_option
from common.config import load_config
from common.errors import InputError
from common.log import configure_logs
from common.schema import SCHEMAS
from common.steps import steps
from pipeline.datasets import DATA_DIR, btc_quotes_2021, coinbase_minutes, coinbase_ticker_2025
from training.commands.folders import taken_back

if TYPE_CHECKING:
    from training.reporting.explore.result import Exploration

DATASETS = {"ticks": coinbase_ticker_2025, "quotes": btc_quotes_2021, "minutes": coinbase_minutes}
DEFAULT_OUT = Path("reports/explore")


@click.command(
    "explore",
    epilog=examples(
        "volcast explore                                     # the Coinbase ticks of December 2025",
        "volcast explore --dataset quotes --out reports/quotes",
        "volcast explore recordings/*.ndjson.gz --quantile 0.95",
        "volcast explore features.parquet --json",
    ),
)
@click.argument("files", nargs=-1, metavar="[FILE|DIR|GLOB]...")
@click.option(
    "--dataset",
    type=click.Choice(tuple(DATASETS)),
    default="ticks",
    show_default=True,
    help="What to take without FILEs.",
)
@click.option(
    "--schema", "schema_name", type=click.Choice(tuple(SCHEMAS)), default=None, help="Of tick data (default: full/1)."
)
@click.option(
    "--quantile",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=0.90,
    show_default=True,
    help="What the spike threshold is set to.",
)
@click.option(
    "--horizon-s", type=click.IntRange(min=1), default=60, show_default=True, help="How far ahead, in seconds."
)
@click.option(
    "--sample-period-s", type=click.IntRange(min=0), default=1, show_default=True, help="At most a row in this; 0: all."
)
@click.option(
    "--final-share",
    type=FiniteRange(0, 1, max_open=True),
    default=0.20,
    show_default=True,
    help="Last rows that are not looked at, for they judge what is chosen here.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_OUT,
    show_default=True,
    help="Folder of the report; files of the same names are replaced.",
)
@json_option
@config_option
def explore(
    files: tuple[str, ...],
    dataset: str,
    schema_name: str | None,
    quantile: float,
    horizon_s: int,
    sample_period_s: int,
    final_share: float,
    out: Path,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """A report on recordings, feature files, quotes or minutes: an HTML page that stands alone, and its pictures.

    Distributions, the threshold and what it costs in alerts, memory of volatility, the course of the day, each
    feature against the label, correlations, stability over days.
    """
    configure_logs(load_config(config_file).log, "explore")
    # What follows takes seconds to import and needs the extra; options are checked and help is shown without it.
    from training.problem.data import find, load
    from training.reporting.explore import figures, plots
    from training.reporting.explore.write import write

    with steps() as step:
        loaded = load(
            find(files) if files else _default(dataset),
            schema=SCHEMAS[schema_name] if schema_name else None,
            horizon_s=horizon_s,
            sample_period_s=sample_period_s,
            progress=step,
        )
        loaded.require_moves()
        step(f"figures of {len(loaded.rows):,} rows")
        exploration = figures.explore(loaded, quantile, final_share)
        step("pictures")
        drawn = plots.pictures(exploration)
        with taken_back(out):
            written = write(out, exploration, drawn)
    if as_json:
        click.echo(msgspec.json.encode(exploration))
    else:
        click.echo(_describe(exploration))
        click.echo(f"wrote {written[0]} and {len(written) - 1} files beside it")


def _default(dataset: str) -> list[Path]:
    found = DATASETS[dataset]()
    if not found:
        raise InputError(
            f"no data found: set {DATA_DIR} to the folder of the recordings, put it at ../shared/data, or name files "
            "(volcast explore FILE...)"
        )
    return found


def _describe(one: Exploration) -> str:
    dropped = {name: n for name, n in one.counts.items() if n and name not in ("ticks", "gaps", "rows")}
    reasons = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in dropped.items()) or "nothing"
    chosen = next(cost for cost in one.thresholds if cost.quantile == one.quantile)
    lines = [
        f"{one.kind} of {', '.join(one.products)}: {one.counts['ticks']:,} read from {len(one.files)} files, "
        f"{one.counts['rows']:,} rows of {one.schema}",
        f"dropped: {reasons}",
        f"gaps: {one.gaps:,}, the longest {one.longest_gap_s:,.0f} s",
        f"explored: {one.rows:,} rows, {one.start} to {one.end}, {one.hours:.1f} h recorded; "
        f"{one.rows_left_out:,} left out for judging",
        f"threshold at the {one.quantile:g} quantile: {1e4 * one.threshold:.4g} bps over {one.horizon_s} s; "
        f"{chosen.alerts_per_hour:.2f} alerts an hour, {chosen.share_of_time:.1%} of the time under alert",
        *one.notes,
    ]
    return "\n".join(lines)
