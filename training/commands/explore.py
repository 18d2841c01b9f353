"""`volcast explore`: what a data set is like, before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from common.cli import FiniteRange, config_option, examples, json_option
from common.config import load_config
from common.log import configure_logs
from common.schema import FULL_1, SCHEMAS
from common.steps import steps
from pipeline.archive import expand_paths
from pipeline.archive.options import flat_options, read_options, show_formats
from training.commands.folders import taken_back

if TYPE_CHECKING:
    from training.reporting.explore.result import Exploration

DEFAULT_OUT = Path("reports/explore")


@click.command(
    "explore",
    epilog=examples(
        "volcast explore                                     # the Coinbase ticks of December 2025",
        "volcast explore --dataset quotes --out reports/quotes",
        "volcast explore recordings/*.ndjson.gz --spike-bps 5",
        "volcast explore quotes.csv --columns time=t,bid=b,ask=a --product BTC-USD --json",
    ),
)
@click.argument("files", nargs=-1, metavar="[FILE|DIR|GLOB]...")
@flat_options
@click.option(
    "--dataset", type=click.Choice(("ticks", "quotes")), default="ticks", show_default=True, help="Without FILEs."
)
@click.option(
    "--schema", "schema_name", type=click.Choice(tuple(SCHEMAS)), default=None,
    help=f"Features (default: those of feature files, else {FULL_1.name}).",
)  # fmt: skip
@click.option(
    "--spike-bps", type=FiniteRange(min=0, min_open=True), default=None,
    help="Spike size in bps (default: that of `volcast train`, which a tenth of the training rows reach).",
)  # fmt: skip
@click.option(
    "--sample-period-s", type=click.IntRange(min=0), default=5, show_default=True, help="At most a row in this; 0: all."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_OUT, show_default=True,
    help="Folder of the report; files of the same names are replaced.",
)  # fmt: skip
@json_option
@config_option
def explore(
    files: tuple[str, ...],
    columns_text: str,
    product: str,
    dataset: str,
    schema_name: str | None,
    spike_bps: float | None,
    sample_period_s: int,
    out: Path,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """A report on recordings or feature files: an HTML page that makes no request, and its pictures.

    Distribution of the outcome, spike sizes and their alerts, memory of volatility, the course of the day, each
    feature against the outcome, correlations. The final part that `volcast train` sets apart is left out.
    """
    config = load_config(config_file)
    configure_logs(config.log, "explore")
    options = read_options(columns_text, product, config.ingest.gap_after_s)
    # These imports take seconds and need the extra: options are checked and help is shown without them.
    from training.fitting.forecast_experiment import Settings
    from training.problem.data.load import is_feature_file, load
    from training.problem.recordings import dataset_recordings
    from training.reporting.explore import figures, plots
    from training.reporting.explore.page import write

    if files:
        paths = [path for name in files for path in expand_paths(name)]
    else:
        (recording,) = dataset_recordings(dataset)
        paths, options = list(recording.files), recording.options
    with steps() as step:
        loaded = load(
            paths,
            schema=SCHEMAS[schema_name] if schema_name else None if any(map(is_feature_file, paths)) else FULL_1,
            sample_period_s=sample_period_s,
            options=options,
            progress=step,
        )
        loaded.require_moves()
        step(f"figures of {len(loaded.rows):,} rows")
        exploration = figures.explore(loaded, Settings(spike_bps=spike_bps or 0.0, target=loaded.target))
        step("pictures")
        pictures = plots.pictures(exploration)
        with taken_back(out):
            written = write(out, exploration, pictures)
    show_formats(loaded.formats)
    if as_json:
        click.echo(msgspec.json.encode(exploration))
    else:
        click.echo(_describe(exploration))
        click.echo(f"wrote {written[0]} and {len(written) - 1} files beside it")


def _describe(exploration: Exploration) -> str:
    from training.reporting.explore.page import dropped

    lines = [
        f"{exploration.kind} of {', '.join(exploration.products)}: {exploration.counts['ticks']:,} read from "
        f"{len(exploration.files)} files, {exploration.counts['rows']:,} rows of {exploration.schema}",
        f"dropped: {dropped(exploration)}",
        f"gaps: {exploration.gaps:,}, the longest {exploration.longest_gap_s:,.0f} s",
        f"explored: {exploration.rows:,} rows, {exploration.start} to {exploration.end}, {exploration.hours:.1f} h "
        f"recorded; {exploration.rows_left_out:,} left out for judging",
        *(
            f"spike size {each.spike_bps:.3g} bps (q{100 * each.quantile:g}): base rate {each.base_rate:.1%}, "
            f"{each.alerts_per_hour:.2f} alerts per hour, {each.share_of_time:.1%} of the time under alert"
            for each in exploration.sizes
        ),
        *exploration.notes,
    ]
    return "\n".join(lines)
