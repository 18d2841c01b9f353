"""A training's results as a run folder, and the upload of run folders that wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import click

from common.bundle import Manifest
from common.check import Check
from common.config import TrackingConfig
from common.errors import UnavailableError
from training.fitting.forecast_experiment import Experiment
from training.judging.scores import crps_log
from training.problem.forecast_rows import ForecastRows
from training.shipping.tracking.record import log_run


def log_experiment(
    runs_dir: Path,
    manifest: Manifest,
    model: bytes,
    rows: ForecastRows,
    experiment: Experiment,
    *,
    look_ahead: Check,
    started_s: float,
    key: str = "",
    plots: Mapping[str, bytes] = MappingProxyType({}),
) -> Path:
    """Writes the run of the kind that ships, manifest.kind; returns its folder.

    rows: every row of the data set. look_ahead: by training.shipping.look_ahead. started_s: Unix time. plots: file name
    -> bytes. Raises InputError if the disk refuses.
    """
    settings = experiment.settings
    return log_run(
        runs_dir,
        manifest,
        model,
        trained=experiment.fitted[manifest.kind],
        rows=rows,
        parts=(*experiment.folds, experiment.final),
        products=rows.products,
        started_s=started_s,
        parameters={"model_type": settings.model_type, "kinds": ",".join(experiment.fitted)},
        fold_metrics=fold_metrics(experiment),
        plots=plots,
        key=key,
        look_ahead=look_ahead,
    )


def fold_metrics(experiment: Experiment) -> dict[str, Sequence[float]]:
    """The mean CRPS of each kind, fold by fold."""
    return {
        f"fold/{kind}/crps": [
            float(crps_log(fold.forecasts[kind], fold.rows.outcome_bps).mean()) for fold in experiment.folds
        ]
        for kind in experiment.fitted
    }


def upload_waiting(config: TrackingConfig, runs_dir: Path) -> list[str]:
    """Uploads the runs that wait to MLflow; returns their ids.

    If MLflow is not available, a line on standard error gives the reason, and the runs wait for the next upload.
    """
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
