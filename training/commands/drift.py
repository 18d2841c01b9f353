"""`volcast drift`: whether rows have moved away from the rows that the model was trained on."""

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
from common.errors import InputError, UsageError, VolcastError
from common.log import configure_logs
from common.model_store import ModelStore
from common.schema import FULL_1, SCHEMAS, FeatureSchema
from common.steps import steps
from pipeline.archive import ReadOptions, expand_paths
from pipeline.archive.options import flat_options, read_options, show_formats
from pipeline.drift import LARGE_PSI
from training.commands.folders import taken_back

if TYPE_CHECKING:
    from training.drift.summary import DriftSummary
    from training.problem.data import Dataset
    from training.problem.forecast_rows import ForecastRows

DRIFTED = 3  # exit code

Bundle = tuple[Manifest, bytes]
Progress = Callable[[str], None]


@click.command(
    "drift",
    epilog=examples(
        "volcast drift --compare-train-test",
        "volcast drift --reference data/raw/old --current data/raw/new --bundle models/volatility/4",
        "volcast drift --live --since 6h --json",
    ),
)
@click.option("--compare-train-test", is_flag=True, help="The training part of the reference against its final part.")
@click.option("--reference", metavar="FILE|DIR|GLOB[,...]", help="Rows to compare with (default: ticks of 2025-12).")
@click.option("--current", metavar="FILE|DIR|GLOB[,...]", help="Rows that may have drifted.")
@flat_options
@click.option("--live", is_flag=True, help="Rows of the worker: its Parquet files, else ticks.features.")
@click.option("--since", type=Duration(), default="24h", show_default=True, help="With --live: how far back.")
@click.option(
    "--bundle",
    "bundle_folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="DIR",
    help="Its probabilities and the features that it uses are judged (default: the version that answers).",
)
@click.option(
    "--threshold", type=FiniteRange(min=0, min_open=True), default=LARGE_PSI, show_default=True,
    help="No PSI below it is drift.",
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
    columns_text: str,
    product: str,
    live: bool,
    since: float,
    bundle_folder: Path | None,
    threshold: float,
    out: Path,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """Compares two stretches of rows, column by column: a table, and Evidently's report as HTML and JSON.

    A column has drifted if its PSI is larger than between any stretch of the reference of the same length and the rest
    of the reference. Exit code 0: no judged column has drifted; 3: a column has. Judged are the features that the
    model uses and its probabilities.
    """
    config = load_config(config_file)
    configure_logs(config.log, "drift")
    if compare_train_test + live + (current is not None) != 1:
        raise UsageError("choose one of --compare-train-test, --current and --live")
    options = read_options(columns_text, product, config.ingest.gap_after_s)
    folder = bundle_folder or _answering(config)
    bundle = None if folder is None else read_bundle(folder)
    from training.drift.evidently_report import write_report
    from training.drift.stretches import stretch, train_and_test
    from training.drift.summary import compare
    from training.fitting.forecast_experiment import Settings

    with steps() as step:
        schema = bundle[0].feature_schema() if bundle else None
        before = _load(reference, options, schema, step).rows
        if compare_train_test:
            train, test = train_and_test(before, Settings())
            pair = stretch("training part", train, bundle), stretch("final part", test, bundle)
        else:
            now = _live(config, since, step) if live else _load(current, options, schema, step).rows
            pair = stretch("reference", before, bundle), stretch("live" if live else "current", now, bundle)
        step("comparing")
        summary = compare(*pair, threshold, bundle[0].inputs if bundle else ())
        step("Evidently's report")
        with taken_back(out):
            written = write_report(*pair, summary, out)
    _print(summary, written, as_json)
    return DRIFTED if summary.drifted else 0


def _answering(config: Config) -> Path | None:
    """The version that answers by default; None if there is no model yet."""
    try:
        return ModelStore(Path(config.server.models_dir), config.server.default_model).answering()
    except VolcastError:
        return None


def _load(sources: str | None, options: ReadOptions, schema: FeatureSchema | None, step: Progress) -> Dataset:
    """schema: of recordings, if it is a schema of the feature engine. Feature files have a schema of their own."""
    from training.problem.data.load import is_feature_file, load
    from training.problem.recordings import dataset_recordings

    if sources is None:
        (recording,) = dataset_recordings("ticks")
        paths, options = list(recording.files), recording.options
    else:
        paths = expand_paths(sources)
    step(f"reading {len(paths)} files")
    known = schema if schema in SCHEMAS.values() else FULL_1
    own = any(map(is_feature_file, paths))
    dataset = load(paths, schema=None if own else known, options=options, progress=step)
    show_formats(dataset.formats)
    return dataset


def _live(config: Config, since_s: float, step: Progress) -> ForecastRows:
    from training.drift.stretches import recent_files, since
    from training.problem.data import load

    files = recent_files(Path(config.worker.parquet_dir), since_s) if config.worker.parquet_dir else []
    if files:
        step(f"reading {len(files)} feature files")
        return since(load(files, progress=step).rows, since_s)
    step(f"reading {config.kafka.topics.features}")
    return _from_topic(config, since_s)


def _from_topic(config: Config, since_s: float) -> ForecastRows:
    """Warm rows of ticks.features, the first in each second of a product."""
    import numpy as np
    from google.protobuf.message import DecodeError

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
        of_row = next((each for each in SCHEMAS.values() if each.hash == row.schema_hash), None)
        if of_row is None or (schema is not None and of_row != schema):
            raise InputError(f"{topic}: rows of schema {row.schema_hash} beside {schema.hash if schema else 'none'}")
        schema, last[row.product_id] = of_row, second
        product.append(row.product_id)
        times.append(row.event_time_ns)
        values.append(list(row.values))
    if schema is None:
        raise InputError(f"{topic}: no warm row in the last {since_s:g} s; is `volcast worker` running?")
    return rows_of_features(schema, np.array(times, np.int64), product, np.array(values))


def _print(summary: DriftSummary, written: list[Path], as_json: bool) -> None:
    import msgspec
    from rich.table import Table

    if as_json:
        click.echo(msgspec.json.encode({**msgspec.to_builtins(summary), "files": [str(path) for path in written]}))
        return
    table = Table("column", "PSI", "limit", "judged", "median", "now", "missing", "now")
    table.columns[0].no_wrap = True
    for each in summary.columns:
        table.add_row(
            each.column, _number(each.psi), _number(each.limit), "yes" if each.judged else "no",
            _number(each.reference_median), _number(each.current_median), f"{each.reference_missing:.1%}",
            f"{each.current_missing:.1%}", style="dim" if not each.judged else "red" if each.beyond else "",
        )  # fmt: skip
    console = tables()
    console.print(table)
    for part in (summary.reference, summary.current):
        span = f"{_utc(part.start_ns)} to {_utc(part.end_ns)}"
        console.print(f"{part.name}: {part.rows:,} rows, {span}", highlight=False)
    judged = sum(each.judged for each in summary.columns)
    names = ", ".join(summary.drifted) or "nothing"
    console.print(
        f"drifted (PSI above its limit): {names} ({len(summary.drifted)} of {judged})", highlight=False, soft_wrap=True
    )
    console.print(f"wrote {', '.join(str(path) for path in written)}", highlight=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _utc(time_ns: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
