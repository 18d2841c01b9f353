"""A training's results as a run: its bundle, trained form, evidence, and the evaluation with its pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.config import TrackingConfig
from common.errors import UnavailableError
from training.shipping.tracking.record import log_run
from training.shipping.trained_model_io import trained_files

if TYPE_CHECKING:
    from training.fitting.experiment import Experiment
    from training.problem.data import Dataset
    from training.shipping.bundle import Bundle


def log_experiment(
    runs_dir: Path,
    bundle: Bundle,
    dataset: Dataset,
    experiment: Experiment,
    *,
    started_s: float,
    key: str = "",
    progress: Callable[[str], None] = lambda step: None,
) -> Path:
    """Writes the run; returns its folder. started_s: Unix time. Raises InputError where the disk refuses."""
    parts = (*experiment.folds, experiment.final)
    fold_metrics = {
        f"fold/{kind}/{metric}": [one.get(metric, float("nan")) for one in candidate.fold_metrics]
        for kind, candidate in experiment.candidates.items()
        for metric in ("pr_auc", "brier", "log_loss")
    }
    return log_run(
        runs_dir,
        bundle.manifest,
        bundle.model,
        trained=trained_files(experiment.model.fitted),
        rows=dataset.rows,
        parts=parts,
        products=dataset.products,
        started_s=started_s,
        parameters=_parameters(experiment),
        fold_metrics=fold_metrics,
        plots=_evaluation(dataset, experiment, progress),
        key=key,
    )


def _parameters(experiment: Experiment) -> Mapping[str, object]:
    """What the search chose of each kind, and how long it looked."""
    chosen = {
        f"{kind}.{name}": value
        for kind, candidate in experiment.candidates.items()
        for name, value in candidate.fitted.params.items()
    }
    settings = experiment.settings
    return chosen | {"asked_for": settings.model_type, "search_trials": settings.budget.trials}


def _evaluation(dataset: Dataset, experiment: Experiment, progress: Callable[[str], None]) -> dict[str, bytes]:
    from training.judging.evaluation.result import encode
    from training.reporting.evaluation_page import page
    from training.reporting.evaluation_plots import pictures
    from training.reporting.evaluation_report import HTML_FILE, JSON_FILE, evaluate_experiment

    found = evaluate_experiment(experiment, dataset, progress=progress)
    progress("drawing")
    drawn = pictures(found, (*experiment.folds, experiment.final))
    return {**drawn, JSON_FILE: encode(found), HTML_FILE: page(found, drawn).encode()}


def upload_waiting(config: TrackingConfig, runs_dir: Path) -> list[str]:
    """Brings the runs that wait to MLflow; returns their ids. Where it is away, one line on standard error says so,
    and they go on waiting: a training that is done stays done."""
    from training.shipping.tracking.mlflow_server import MlflowServer, waiting

    server = MlflowServer(config)
    done = []
    try:
        for folder in waiting(runs_dir, server.uri):
            server.upload(folder)
            done.append(folder.name)
    except UnavailableError as error:
        click.echo(f"volcast: {error}", err=True)
    return done
