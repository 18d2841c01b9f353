"""`volcast train`: archives in, one model bundle out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from common.cli import config_option, examples, json_option
from common.config import load_config
from common.errors import InputError, UsageError
from common.log import configure_logs
from pipeline.archive import expand_paths
from pipeline.datasets import DATA_DIR, coinbase_ticker_2025
from training import MODEL_TYPES

if TYPE_CHECKING:
    from training.bundle import Bundle
    from training.experiment import Progress, Settings


@click.command(
    "train",
    epilog=examples(
        "volcast train",
        "volcast train data/archive/BTC-USD_*.ndjson.gz --version 2",
        "volcast train --data data/archive --out /tmp/models --json",
    ),
)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--data", metavar="FILE|DIR|GLOB[,...]", help="The same as FILEs.")
@click.option(
    "--model-type", type=click.Choice(MODEL_TYPES), default="logistic", show_default=True, help="What to train."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=None, help="Folder of bundles (config: models)."
)
@click.option("--name", default="volatility", show_default=True, help="Name of the model.")
@click.option("--version", type=click.IntRange(min=1), default=None, help="Version to write (default: the next free).")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@click.option("--force", is_flag=True, help="Replace the version where it exists.")
@json_option
@config_option
def train(
    files: tuple[str, ...],
    data: str | None,
    model_type: str,
    out: Path | None,
    name: str,
    version: int | None,
    seed: int,
    force: bool,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """Trains on recorded ticks, tests on their last fifth, exports to ONNX and writes a bundle.

    Without FILEs: the Coinbase recordings of December 2025 under VOLCAST_DATA_DIR or ../shared/data.
    """
    config = load_config(config_file)
    configure_logs(config.log, "train")
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"--name: expected letters, digits, - and _, got {name!r}")
    # What follows takes seconds to import and needs the extra; options are checked and help is shown without it.
    from rich.console import Console

    from training import report
    from training.bundle import bundle_folder, write_bundle
    from training.experiment import Settings

    folder = bundle_folder(out or Path(config.server.models_dir), name, version, force)
    paths = _paths(files, data)
    bundle, latency_us = _make(paths, name, folder.name, Settings(model_type=model_type, seed=seed))
    write_bundle(folder, bundle)
    if as_json:
        click.echo(msgspec.json.encode(report.as_json(bundle.manifest, str(folder), latency_us)))
    else:
        report.print_report(Console(), bundle.manifest, latency_us)
        click.echo(f"wrote {folder}")
    return 0


def _paths(files: tuple[str, ...], data: str | None) -> list[Path]:
    if files and data:
        raise UsageError("name recordings as FILEs or with --data, not both")
    named = [*files, data] if data else list(files)
    if named:
        return list(dict.fromkeys(path for one in named for path in expand_paths(one)))
    found = coinbase_ticker_2025()
    if not found:
        raise InputError(
            f"no data found: set {DATA_DIR} to the folder that holds coinbase_ticker/, put it at ../shared/data, "
            "or name recordings (volcast train FILE...)"
        )
    return found


def _make(paths: list[Path], name: str, version: str, settings: Settings) -> tuple[Bundle, float]:
    from training import experiment
    from training.bundle import build_bundle, one_row_latency_us
    from training.dataset import read_dataset

    with _progress() as step:
        step(f"reading {len(paths)} files, computing features")
        dataset = read_dataset(paths, settings.horizon_s, settings.sample_period_s)
        result = experiment.run(dataset.rows, settings, step)
        step("exporting, comparing on every row")
        bundle = build_bundle(name, version, dataset, result)
        step("timing")
        return bundle, one_row_latency_us(bundle.model, dataset.rows.features[:1])


@contextmanager
def _progress() -> Iterator[Progress]:
    """Shows the step at hand on a terminal's standard error; silent elsewhere."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (progress.SpinnerColumn(), progress.TextColumn("{task.description}"), progress.TimeElapsedColumn())
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda step: bar.update(task, description=step)
