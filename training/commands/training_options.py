"""Options that `volcast train`, `volcast retrain` and `volcast evaluate` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from common.cli import FiniteRange
from common.errors import UsageError
from common.model_store import model_name
from common.schema import CORE_1, FULL_1, FULL_2, SCHEMAS
from pipeline.archive import ReadOptions, expand_paths
from training import DATASETS, MODEL_TYPES

if TYPE_CHECKING:
    from training.problem.recordings import Recording

# A model of its own for each schema: callers of a name send the features of its schema.
MODEL_NAMES = {CORE_1.name: "volatility", FULL_1.name: "volatility-full", FULL_2.name: "volatility-trailing"}
_NAMES_TEXT = ", ".join(f"{name} for {schema}" for schema, name in MODEL_NAMES.items())


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what decides which model is trained, and where the fits run."""
    options = (
        click.option(
            "--model-type",
            type=click.Choice((*MODEL_TYPES, "auto")),
            default="auto",
            show_default=True,
            help="What to ship; auto: the best on the walk-forward folds if it is shown to beat HAR, else HAR.",
        ),
        click.option(
            "--schema",
            "schema_name",
            type=click.Choice(tuple(SCHEMAS)),
            default=CORE_1.name,
            show_default=True,
            help="Features that the model is served on.",
        ),
        click.option("--name", default=None, help=f"Name of the model (default: {_NAMES_TEXT})."),
        click.option(
            "--spike-bps",
            type=FiniteRange(min=0, min_open=True),
            default=None,
            help="The model's spike size in bps, for callers that name none (default: a tenth of the training rows "
            "reach it).",
        ),
        click.option(
            "--alert-level",
            type=FiniteRange(min=0, max=1, min_open=True),
            default=0.5,
            show_default=True,
            help="Probability from which a spike is expected.",
        ),
        click.option(
            "--folds", type=click.IntRange(min=2, max=50), default=5, show_default=True, help="Walk-forward folds."
        ),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of fits and bootstrap."),
        click.option("--cluster", metavar="ADDRESS", default=None, help="A Dask scheduler (default: a local one)."),
        click.option("--no-cluster", is_flag=True, help="Run in this process."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def trained_name(name: str | None, schema_name: str) -> str:
    """--name, or the default name for the schema. Raises UsageError if the name is not valid."""
    return model_name(name or MODEL_NAMES[schema_name], "--name")


def chosen_cluster(cluster: str | None, no_cluster: bool) -> str | None:
    """Where the fits run, as training.fitting.pool.open_pool takes it. Raises UsageError if both options are set."""
    if cluster and no_cluster:
        raise UsageError("--cluster and --no-cluster: choose one")
    return None if no_cluster else cluster or "local"


def dataset_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --dataset, for commands whose FILEs may be left out."""
    return click.option(
        "--dataset",
        type=click.Choice(DATASETS),
        default="ticks",
        show_default=True,
        help="What to take without FILEs; recordings: all of the shared data, pooled; streams: those with a tick a "
        "second or more.",
    )(command)


def chosen_recordings(named: Sequence[str], dataset: str, options: ReadOptions) -> tuple[Recording, ...]:
    """The named files and folders as a recording; without any, those of the data set.

    Raises InputError if a name or the data set matches no file.
    """
    from training.problem.recordings import Recording, dataset_recordings

    if not named:
        return dataset_recordings(dataset)
    paths = dict.fromkeys(path for text in named for path in expand_paths(text))
    return (Recording("recording", tuple(paths), options),)
