"""`volcast train`: archives in, one model bundle out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from common.cli import FiniteRange, config_option, examples, json_option
from common.config import load_config
from common.console import tables
from common.errors import InputError, UsageError
from common.log import configure_logs
from common.model_store import ModelStore
from common.schema import SCHEMAS
from pipeline.archive import expand_paths
from pipeline.datasets import DATA_DIR, btc_quotes_2021, coinbase_ticker_2025
from training import FOLDS, MODEL_TYPES, TICKS_FOLDS
from training.commands.training_options import chosen_cluster, trained_name

if TYPE_CHECKING:
    from training.shipping.training_run import TrainedBundle

DATASETS = ("ticks", "quotes")


@click.command(
    "train",
    epilog=examples(
        "volcast train",
        "volcast train data/raw/BTC-USD_*.ndjson.gz --model-type xgboost --schema full/1 --name volatility-full",
        "volcast train --dataset quotes --name quotes --cluster tcp://10.0.0.5:8786",
        "volcast train --data data/raw --out /tmp/models --json",
    ),
)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--data", metavar="FILE|DIR|GLOB[,...]", help="The same as FILEs.")
@click.option(
    "--dataset", type=click.Choice(DATASETS), default="ticks", show_default=True, help="What to take without FILEs."
)
@click.option(
    "--model-type",
    type=click.Choice((*MODEL_TYPES, "auto")),
    default="auto",
    show_default=True,
    help="What to ship; auto: the best on the walk-forward folds, where it is shown to beat HAR, else HAR.",
)
@click.option(
    "--schema",
    "schema_name",
    type=click.Choice(tuple(SCHEMAS)),
    default=None,
    help="Features the model is served on, of tick data (default: core/1).",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=None, help="Folder of bundles (config: models)."
)
@click.option("--name", default=None, help="Name of the model (default: volatility; volatility-full for full/1).")
@click.option("--version", type=click.IntRange(min=1), default=None, help="Version to write (default: the next free).")
@click.option(
    "--folds",
    type=click.IntRange(min=2, max=50),
    default=None,
    help=f"Walk-forward folds (default: {TICKS_FOLDS} for ticks, else {FOLDS}).",
)
@click.option("--trials", type=click.IntRange(min=1), default=10, show_default=True, help="Of each search.")
@click.option(
    "--search-s",
    type=FiniteRange(min=0, min_open=True),
    default=None,
    help="Longest time of each search; the bundle then depends on the machine's speed.",
)
@click.option(
    "--threshold-rows",
    type=click.IntRange(min=0),
    default=None,
    help="Last training rows that the spike threshold is taken from; 0: all (default: 1800 for ticks, else 0).",
)
@click.option("--cluster", metavar="ADDRESS", default=None, help="A Dask scheduler to run on (default: a local one).")
@click.option("--no-cluster", is_flag=True, help="Run in this process.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of searches and bootstrap.")
@click.option("--force", is_flag=True, help="Replace the version where it exists.")
@click.option("--no-track", is_flag=True, help="Keep no run of it, and tell MLflow nothing (docs/promotion.md).")
@json_option
@config_option
def train(
    files: tuple[str, ...],
    data: str | None,
    dataset: str,
    model_type: str,
    schema_name: str | None,
    out: Path | None,
    name: str | None,
    version: int | None,
    folds: int | None,
    trials: int,
    search_s: float | None,
    threshold_rows: int | None,
    cluster: str | None,
    no_cluster: bool,
    seed: int,
    force: bool,
    no_track: bool,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """Trains on recorded data, tests on its last fifth, exports to ONNX and writes a bundle.

    Every kind is compared with the baselines on purged walk-forward folds; parameters, features, calibration and
    decision threshold are chosen inside each training part. Without FILEs: the data set of --dataset under
    VOLCAST_DATA_DIR or ../shared/data; ticks are the Coinbase recordings of December 2025.
    """
    config = load_config(config_file)
    configure_logs(config.log, "train")
    name = trained_name(name, schema_name)
    cluster = chosen_cluster(cluster, no_cluster)
    # These imports take seconds and need the extra: options are checked and help is shown without them.
    from training.fitting.search import Budget
    from training.shipping.bundle import bundle_folder, write_bundle
    from training.shipping.tracking.experiments import upload_waiting
    from training.shipping.trained_model_io import trained_files
    from training.shipping.training_run import TrainingRequest, keep_run, train_bundle

    folder = bundle_folder(out or Path(config.server.models_dir), name, version, force)
    request = TrainingRequest(
        paths=_paths(files, data, dataset),
        model_type=model_type,
        schema_name=schema_name,
        folds=folds,
        threshold_rows=threshold_rows,
        budget=Budget(trials=trials, seconds=search_s),
        seed=seed,
        cluster=cluster,
    )
    started_s = time.time()
    trained = train_bundle(request, name, folder.name)
    runs_dir = Path(config.tracking.runs_dir)
    run = None if no_track else keep_run(trained, runs_dir, started_s)
    store = ModelStore(folder.parents[1], name)
    # Without --version, an existing bundle is not written again under the next number.
    existing = None if version else store.find(trained.bundle.manifest)
    if existing is None:
        # The stable version stays stable: a model answers once it is promoted, not because it is the newest.
        store.pin()
        write_bundle(folder, trained.bundle, trained_files(trained.experiment.model.fitted))
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


def _paths(files: tuple[str, ...], data: str | None, dataset: str) -> list[Path]:
    if files and data:
        raise UsageError("name recordings as FILEs or with --data, not both")
    if data == "":
        raise UsageError("--data: expected FILE|DIR|GLOB, got ''")
    named = [*files, data] if data else list(files)
    if named:
        return list(dict.fromkeys(path for one in named for path in expand_paths(one)))
    found = coinbase_ticker_2025() if dataset == "ticks" else btc_quotes_2021()
    if not found:
        raise InputError(
            f"no data found: set {DATA_DIR} to the folder that holds the recordings, put it at ../shared/data, "
            "or name recordings (volcast train FILE...)"
        )
    return found
