"""`volcast train`: recordings in, a model bundle out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from common.cli import config_option, examples, json_option
from common.config import load_config
from common.console import tables
from common.errors import UsageError
from common.log import configure_logs
from common.model_store import ModelStore
from pipeline.archive.options import flat_options, read_options, show_formats
from training.commands.training_options import (
    chosen_cluster,
    chosen_recordings,
    dataset_option,
    trained_name,
    training_options,
)

if TYPE_CHECKING:
    from training.shipping.training_run import TrainedBundle


@click.command(
    "train",
    epilog=examples(
        "volcast train",
        "volcast train data/raw/BTC-USD_*.ndjson.gz --model-type xgboost --spike-bps 5",
        "volcast train --dataset streams --spike-bps 6",
        "volcast train --dataset recordings --schema full/2 --cluster tcp://10.0.0.5:8786",
        "volcast train quotes.csv --product BTC-USD --columns time=ts_utc",
        "volcast train --data data/raw --out /tmp/models --json",
    ),
)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--data", metavar="FILE|DIR|GLOB[,...]", help="The same as FILEs.")
@flat_options
@dataset_option
@training_options
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=None, help="Folder of bundles (config: models)."
)
@click.option("--version", type=click.IntRange(min=1), default=None, help="Version to write (default: the next free).")
@click.option("--force", is_flag=True, help="Replace the version if it exists.")
@click.option("--no-track", is_flag=True, help="Keep no run of it, and tell MLflow nothing (docs/promotion.md).")
@json_option
@config_option
def train(
    files: tuple[str, ...],
    data: str | None,
    columns_text: str,
    product: str,
    dataset: str,
    model_type: str,
    schema_name: str,
    name: str | None,
    spike_bps: float | None,
    alert_level: float,
    folds: int,
    seed: int,
    cluster: str | None,
    no_cluster: bool,
    out: Path | None,
    version: int | None,
    force: bool,
    no_track: bool,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """Trains a forecast of volatility on recorded data, exports it to ONNX and writes a bundle.

    Every kind is fitted on purged walk-forward folds and compared with HAR by CRPS. The last fifth of each recording is
    forecast once, at the end. Without FILEs: the data set of --dataset under VOLCAST_DATA_DIR or ../shared/data; ticks
    are the Coinbase recordings of December 2025.
    """
    config = load_config(config_file)
    configure_logs(config.log, "train")
    name = trained_name(name, schema_name)
    cluster = chosen_cluster(cluster, no_cluster)
    options = read_options(columns_text, product, config.ingest.gap_after_s)
    # These imports take seconds and need the extra: options are checked and help is shown without them.
    from training.shipping.bundle import bundle_folder, write_bundle
    from training.shipping.tracking.experiments import upload_waiting
    from training.shipping.trained_form import trained_files
    from training.shipping.training_run import TrainingRequest, keep_run, train_bundle

    folder = bundle_folder(out or Path(config.server.models_dir), name, version, force)
    request = TrainingRequest(
        recordings=chosen_recordings(_named(files, data), dataset, options),
        model_type=model_type,
        schema_name=schema_name,
        folds=folds,
        spike_bps=spike_bps or 0.0,
        alert_level=alert_level,
        seed=seed,
        cluster=cluster,
    )
    started_s = time.time()
    trained = train_bundle(request, name, folder.name)
    show_formats(trained.data.formats)
    runs_dir = Path(config.tracking.runs_dir)
    run = None if no_track else keep_run(trained, runs_dir, started_s)
    store = ModelStore(folder.parents[1], name)
    # Without --version, an existing bundle is not written again under the next number.
    existing = None if version else store.find(trained.bundle.manifest)
    if existing is None:
        # The stable version stays stable: a model answers once it is promoted, not because it is the newest.
        store.pin()
        write_bundle(folder, trained.bundle, trained_files(trained.experiment.fitted[trained.bundle.manifest.kind]))
    _print(trained, store.path(existing or folder.name), existing is None, run, as_json)
    if run is not None:
        uploaded = upload_waiting(config.tracking, runs_dir)
        if not as_json:
            click.echo(f"run {run.name}, {'in MLflow' if run.name in uploaded else f'kept in {run}'}")
    return 0


def _print(trained: TrainedBundle, folder: Path, written: bool, run: Path | None, as_json: bool) -> None:
    from training.reporting import training_summary

    manifest = trained.bundle.manifest
    if as_json:
        summary = training_summary.as_json(manifest, str(folder), trained.latency_us)
        click.echo(msgspec.json.encode({**summary, "written": written, "run": run and run.name}))
        return
    training_summary.print_report(tables(), manifest, trained.latency_us)
    click.echo(f"wrote {folder}" if written else f"nothing written: {folder} holds the same bundle")


def _named(files: tuple[str, ...], data: str | None) -> list[str]:
    """FILEs, or --data. Raises UsageError for both, and for --data without a name."""
    if files and data:
        raise UsageError("name recordings as FILEs or with --data, not both")
    if data == "":
        raise UsageError("--data: expected FILE|DIR|GLOB, got ''")
    return [data] if data else list(files)
