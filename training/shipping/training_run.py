"""A training run from recordings to a bundle and the folder of the run: shared by `volcast train` and `retrain`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from common.bundle import ManifestSpan
from common.check import Check
from common.errors import UsageError
from common.schema import CORE_1, SCHEMAS
from common.steps import steps
from training.fitting import forecast_experiment
from training.fitting.forecast_experiment import BASELINES, Experiment, Settings
from training.fitting.pool import open_pool
from training.forecast_scores.summary import Scores, best_kind, summary
from training.forecasting.bundle import default_size_bps, make_bundle
from training.forecasting.onnx_forecast import OnnxForecast
from training.forecasting.parts import ForecastPart
from training.judging.evaluation.blocks import DECISION_RESAMPLES
from training.problem.data import Dataset, load
from training.problem.recordings import Recording
from training.shipping.bundle import Bundle
from training.shipping.tracking.experiments import log_experiment

_DIGITS = 6


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """The options of the command line that decide what is trained."""

    recordings: tuple[Recording, ...]
    model_type: str
    schema_name: str | None
    folds: int
    spike_bps: float  # default spike size; 0: a quantile of the training rows
    alert_level: float
    seed: int
    cluster: str | None  # None: in this process

    @property
    def paths(self) -> list[Path]:
        return [path for recording in self.recordings for path in recording.files]

    @property
    def settings(self) -> Settings:
        return Settings(
            model_type=self.model_type,
            folds=self.folds,
            spike_bps=self.spike_bps,
            alert_level=self.alert_level,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class TrainedBundle:
    """A bundle, its latency for a row in µs, and the experiment and data behind it."""

    bundle: Bundle
    latency_us: float
    dataset: Dataset
    experiment: Experiment
    kind: str  # that ships
    look_ahead: Check


def train_bundle(request: TrainingRequest, name: str, version: str) -> TrainedBundle:
    """Reads the recordings, fits every kind, exports the kind that ships. version: recorded in the manifest.

    Raises InputError if a recording cannot be read or there are too few rows, UsageError for an unknown schema.
    """
    schema = SCHEMAS.get(request.schema_name or CORE_1.name)
    if schema is None:
        raise UsageError(f"--schema {request.schema_name}: expected {', '.join(SCHEMAS)}")
    with steps() as step:
        step(f"reading {len(request.paths)} files, computing features")
        dataset = load(request.paths, schema=schema, progress=step)
        look_ahead = dataset.look_ahead(request.seed)
        step("starting the workers" if request.cluster else "fitting")
        with open_pool(request.cluster) as pool:
            experiment = forecast_experiment.run(dataset.rows, request.settings, step, pool)
        step("scoring, exporting, comparing on every row")
        kind = shipped_kind(experiment)
        bundle = forecast_bundle(name, version, dataset, experiment, kind)
        step("timing")
        latency_us = OnnxForecast(bundle.model).call_us(experiment.final.rows.features[:1])
        return TrainedBundle(bundle, latency_us, dataset, experiment, kind, look_ahead)


def keep_run(trained: TrainedBundle, runs_dir: Path, started_s: float, key: str = "") -> Path:
    """Writes the folder of the run, which is returned."""
    return log_experiment(
        runs_dir,
        trained.bundle.manifest,
        trained.bundle.model,
        trained.dataset.rows,
        trained.experiment,
        look_ahead=trained.look_ahead,
        started_s=started_s,
        key=key,
    )


def shipped_kind(experiment: Experiment) -> str:
    """The kind that was asked for, or the best kind if it is shown to beat HAR, else HAR."""
    settings = experiment.settings
    if settings.model_type != forecast_experiment.AUTO:
        return settings.model_type
    return best_kind(experiment.folds, settings.block_s(experiment.train), settings.seed)[0]


def forecast_bundle(name: str, version: str, dataset: Dataset, experiment: Experiment, kind: str) -> Bundle:
    """The bundle of a kind, with the scores of all kinds. The same data, code and seed give the same bytes."""
    settings, train, final = experiment.settings, experiment.train, experiment.final
    size = settings.spike_bps or default_size_bps(train)
    block_s = settings.block_s(train)
    scores = [summary(parts, size, block_s, settings.seed) for parts in ((final,), experiment.folds)]
    manifest, model = make_bundle(
        name,
        version,
        experiment.fitted[kind],
        replace(train, counts=dataset.counts | {"training": len(train), "evaluation": len(final)}),
        spike_bps=size,
        alert_level=settings.alert_level,
        target=settings.target,
        files=dataset.paths,
        baselines={each: experiment.fitted[each] for each in BASELINES if each in experiment.fitted},
        parameters={
            "sample_period_s": dataset.sample_period_s,
            "final_share": settings.final_share,
            "folds": settings.folds,
            "embargo_s": block_s,
            "bootstrap_block_s": block_s,
            "bootstrap_resamples": DECISION_RESAMPLES,
            "seed": settings.seed,
        },
        evaluation=_span(final, size),
        metrics=_rounded(scores[0]),
        walk_forward=_rounded(scores[1]),
    )
    return Bundle(manifest, model)


def _span(part: ForecastPart, size_bps: float) -> ManifestSpan:
    rows = part.rows
    spikes = int((rows.outcome_bps >= size_bps).sum())
    return ManifestSpan(int(rows.time_ns.min()), int(rows.time_ns.max()), len(rows), spikes)


def _rounded(scores: Scores) -> Scores:
    return {
        kind: {name: float(f"{value:.{_DIGITS}g}") for name, value in values.items()} for kind, values in scores.items()
    }
