"""`volcast drift`: has what comes in moved away from what was learned?"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.bundle import Manifest, read_bundle
from common.cli import Duration, FiniteRange, config_option, examples, json_option
from common.config import Config, load_config
from common.console import tables
from common.errors import InputError, UsageError
from common.log import configure_logs
from common.steps import steps
from pipeline.archive import expand_paths
from pipeline.datasets import DATA_DIR, coinbase_ticker_2025
from pipeline.drift import LARGE_PSI
from training.commands.folders import taken_back

if TYPE_CHECKING:
    from training.drift.summary import DriftSummary
    from training.problem.data import Dataset
    from training.problem.rows import Rows

DRIFTED = 3  # exit code
FINAL_SHARE = 0.20

Bundle = tuple[Manifest, bytes]
Progress = Callable[[str], None]


@click.command(
    "drift",
    epilog=examples(
        "volcast drift --compare-train-test",
        "volcast drift --reference data/raw/old --current data/raw/new --bundle models/volatility/1",
        "volcast drift --live --since 6h --json",
    ),
)
@click.option("--compare-train-test", is_flag=True, help="The training part of the reference against its final part.")
@click.option("--reference", metavar="FILE|DIR|GLOB[,...]", help="What was learned (default: recordings of 2025-12).")
@click.option("--current", metavar="FILE|DIR|GLOB[,...]", help="What is compared with it.")
@click.option("--live", is_flag=True, help="What a worker made of late: its Parquet, or ticks.features without any.")
@click.option("--since", type=Duration(), default="24h", show_default=True, help="With --live: how far back.")
@click.option(
    "--bundle",
    "bundle_folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="DIR",
    help="Its probabilities are compared too, and of the features those that it looks at are judged.",
)
@click.option(
    "--threshold", type=FiniteRange(min=0, min_open=True), default=LARGE_PSI, show_default=True,
    help="PSI from which a column has drifted.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("reports/evidently"), show_default=True
)
@json_option
@config_option
def drift(
    compare_train_test: bool,
    reference: str | None,
    current: str | None,
    live: bool,
    since: float,
    bundle_folder: Path | None,
    threshold: float,
    out: Path,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """Compares two stretches of rows, column by column: a table here, Evidently's report as HTML and JSON.

    Exit code 0: no judged column has drifted; 3: one has. Price levels and the time of day are shown and not
    judged, unless the bundle looks at them.
    """
    config = load_config(config_file)
    configure_logs(config.log, "drift")
    if compare_train_test + live + (current is not None) != 1:
        raise UsageError("choose one of --compare-train-test, --current and --live")
    bundle = None if bundle_folder is None else read_bundle(bundle_folder)
    from training.drift.evidently_report import write_report
    from training.drift.stretches import stretch, train_and_test
    from training.drift.summary import compare

    with steps() as step:
        if compare_train_test:
            stem, dataset = "train_test", _load(reference, step)
            train, test = train_and_test(dataset.rows, dataset.horizon_s, dataset.window_s, FINAL_SHARE)
            pair = stretch("training part", train, bundle), stretch("final part", test, bundle)
        else:
            stem, now = ("live", _live(config, since, step)) if live else ("drift", _load(current, step).rows)
            before = _load(reference, step).rows
            pair = stretch("reference", before, bundle), stretch("live" if live else "current", now, bundle)
        step("comparing")
        summary = compare(*pair, threshold, bundle[0].inputs if bundle else ())
        step("Evidently's report")
        with taken_back(out):
            written = write_report(*pair, summary, out, stem)
    _say(summary, written, as_json)
    return DRIFTED if summary.drifted else 0


def _load(sources: str | None, step: Progress) -> Dataset:
    from training.problem.data import load

    paths = expand_paths(sources) if sources else coinbase_ticker_2025()
    if not paths:
        raise InputError(
            f"no data found: set {DATA_DIR} to the folder that holds coinbase_ticker/, or name recordings with "
            "--reference"
        )
    step(f"reading {len(paths)} files")
    return load(paths, progress=step)


def _live(config: Config, since_s: float, step: Progress) -> Rows:
    from training.drift.stretches import recent_files, since
    from training.problem.data import load

    files = recent_files(Path(config.worker.parquet_dir), since_s) if config.worker.parquet_dir else []
    if files:
        step(f"reading {len(files)} feature files")
        return since(load(files, progress=step).rows, since_s)
    step(f"reading {config.kafka.topics.features}")
    return _from_topic(config, since_s)


def _from_topic(config: Config, since_s: float) -> Rows:
    """Warm rows of ticks.features, one a second and product."""
    import numpy as np
    from google.protobuf.message import DecodeError

    from common.schema import SCHEMAS
    from training.commands.topics import read_to_end
    from training.drift.stretches import rows_of_features
    from volcast.v1 import FeatureRow

    topic = config.kafka.topics.features
    schema = None
    product, times, values = [], [], []
    last: dict[str, int] = {}
    for message in read_to_end(config.kafka, topic, int((time.time() - since_s) * 1000)):
        try:
            row = FeatureRow.FromString(message.value() or b"")
        except DecodeError:
            continue
        second = row.event_time_ns // 10**9
        if not row.warm or last.get(row.product_id) == second:
            continue
        found = next((one for one in SCHEMAS.values() if one.hash == row.schema_hash), None)
        if found is None or (schema is not None and found != schema):
            raise InputError(f"{topic}: rows of schema {row.schema_hash} beside {schema.hash if schema else 'none'}")
        schema, last[row.product_id] = found, second
        product.append(row.product_id)
        times.append(row.event_time_ns)
        values.append(list(row.values))
    if schema is None:
        raise InputError(f"{topic}: no warm row in the last {since_s:g} s; is `volcast worker` running?")
    return rows_of_features(schema, np.array(times, np.int64), product, np.array(values))


def _say(summary: DriftSummary, written: list[Path], as_json: bool) -> None:
    import msgspec
    from rich.table import Table

    if as_json:
        click.echo(msgspec.json.encode({**msgspec.to_builtins(summary), "files": [str(path) for path in written]}))
        return
    table = Table("column", "PSI", "verdict", "judged", "median", "now", "missing", "now")
    table.columns[0].no_wrap = True
    for one in summary.columns:
        colour = {"large": "red", "moderate": "yellow"}.get(one.verdict, "") if one.judged else "dim"
        table.add_row(
            one.column, _number(one.psi), one.verdict, "yes" if one.judged else "no", _number(one.reference_median),
            _number(one.current_median), f"{one.reference_missing:.1%}", f"{one.current_missing:.1%}", style=colour,
        )  # fmt: skip
    console = tables()
    console.print(table)
    for part in (summary.reference, summary.current):
        span = f"{_utc(part.start_ns)} to {_utc(part.end_ns)}"
        console.print(f"{part.name}: {part.rows:,} rows, {span}", highlight=False)
    judged = sum(one.judged for one in summary.columns)
    what = ", ".join(summary.drifted) or "nothing"
    console.print(
        f"drifted (PSI ≥ {summary.threshold:g}): {what} ({len(summary.drifted)} of {judged})", highlight=False,
        soft_wrap=True,
    )  # fmt: skip
    console.print(f"wrote {', '.join(str(path) for path in written)}", highlight=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _utc(time_ns: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
