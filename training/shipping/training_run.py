"""A training run from recordings to a bundle and the folder of the run: shared by `volcast train` and `retrain`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from common.check import Check
from common.errors import InputError
from common.schema import SCHEMAS
from common.steps import steps
from training.fitting import forecast_experiment
from training.fitting.forecast_experiment import BASELINES, Experiment, Progress, Settings
from training.fitting.pool import open_pool
from training.forecasting.bundle import default_size_bps, make_bundle, span_of
from training.forecasting.onnx_forecast import OnnxForecast
from training.judging.blocks import DECISION_RESAMPLES
from training.judging.evaluation import evaluate_parts
from training.judging.evaluation_result import DataRef, EvalSettings, ModelRef
from training.judging.summary import ScoredParts, Scores, best_kind, scored_parts, summary
from training.problem.recordings import PooledData, Recording, read_recordings
from training.reporting.forecast_report import report_files
from training.shipping.bundle import Bundle
from training.shipping.look_ahead import look_ahead
from training.shipping.tracking.experiments import log_experiment

NOT_CHECKED = Check("look-ahead", False, "the rows are from a feature file, so their ticks are not known")
SAMPLE_PERIOD_S = 5  # the step of the target's grid: rows between two points would have the same outcome
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """The options of the command line that decide what is trained."""

    recordings: tuple[Recording, ...]
    model_type: str
    schema_name: str
    folds: int
    spike_bps: float  # default spike size; 0: a quantile of the training rows
    alert_level: float
    seed: int
    cluster: str | None  # None: in this process

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(file for recording in self.recordings for file in recording.files)

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
    data: PooledData
    experiment: Experiment
    look_ahead: Check


def read_data(request: TrainingRequest, progress: Progress) -> PooledData:
    """Raises InputError if a recording cannot be read, if it gives no row, or if the market stood still."""
    data = read_recordings(request.recordings, SCHEMAS[request.schema_name], SAMPLE_PERIOD_S, progress)
    if (data.rows.outcome_bps <= request.settings.target.floor_bps).all():
        raise InputError(
            f"the mid stood still in the minute after each of {len(data.rows):,} rows: a livelier recording is needed"
        )
    return data


def train_bundle(request: TrainingRequest, name: str, version: str) -> TrainedBundle:
    """Reads the recordings, fits every kind, exports the kind that ships. version: recorded in the manifest.

    Raises InputError if a recording cannot be read or there are too few rows.
    """
    with steps() as step:
        data = read_data(request, step)
        step("computing sampled rows again")
        checked = look_ahead(data.rows, data.recorded, request.seed) if data.recorded else NOT_CHECKED
        step("starting the workers" if request.cluster else "fitting")
        with open_pool(request.cluster) as pool:
            experiment = forecast_experiment.run(data.rows, request.settings, step, pool)
        step("scoring, exporting, comparing on every row")
        scored = scored_parts(experiment.folds)
        bundle = forecast_bundle(name, version, data, experiment, shipped_kind(experiment, scored), scored)
        step("timing")
        latency_us = OnnxForecast(bundle.model).call_us(experiment.final.rows.features[:1])
        return TrainedBundle(bundle, latency_us, data, experiment, checked)


def keep_run(trained: TrainedBundle, runs_dir: Path, started_s: float, key: str = "") -> Path:
    """Evaluates the run and writes its folder, which is returned. started_s: Unix time."""
    bundle = trained.bundle
    with steps() as step:
        return log_experiment(
            runs_dir,
            bundle.manifest,
            bundle.model,
            trained.data.rows,
            trained.experiment,
            look_ahead=trained.look_ahead,
            started_s=started_s,
            key=key,
            plots=_evaluation(trained, step),
        )


def _evaluation(trained: TrainedBundle, progress: Progress) -> dict[str, bytes]:
    """File name -> bytes: the evaluation, its page and pictures."""
    manifest, experiment = trained.bundle.manifest, trained.experiment
    assert manifest.forecast is not None
    settings = EvalSettings(
        spike_bps=manifest.forecast.spike_bps,
        alert_level=manifest.decision_threshold,
        block_s=experiment.settings.block_s(experiment.train),
        seed=experiment.settings.seed,
    )
    parts = (*experiment.folds, experiment.final)
    schema, rows = manifest.schema, trained.data.rows
    evaluation = msgspec.structs.replace(
        evaluate_parts(parts, manifest.kind, settings, progress=progress),
        model=ModelRef(manifest.name, manifest.version, manifest.kind, schema.name, schema.hash, manifest.model_sha256),
        data=DataRef(tuple(manifest.data), manifest.data_sha256, dict(rows.counts), rows.products),
    )
    progress("drawing")
    return report_files(evaluation, parts)


def shipped_kind(experiment: Experiment, scored: ScoredParts | None = None) -> str:
    """The requested kind. For `auto`: the best kind if it is shown to beat HAR, else HAR.

    scored: of the folds, if they are known.
    """
    settings = experiment.settings
    if settings.model_type != forecast_experiment.AUTO:
        return settings.model_type
    return best_kind(experiment.folds, settings.block_s(experiment.train), settings.seed, scored)[0]


def forecast_bundle(
    name: str, version: str, data: PooledData, experiment: Experiment, kind: str, scored: ScoredParts | None = None
) -> Bundle:
    """The bundle of a kind, with the scores of all kinds. scored: of the folds, if they are known.

    The same data, code and seed give the same bytes.
    """
    settings, train, final = experiment.settings, experiment.train, experiment.final
    size = settings.spike_bps or default_size_bps(train)
    block_s = settings.block_s(train)
    walk_forward = summary(experiment.folds, size, block_s, settings.seed, scored)
    manifest, model = make_bundle(
        name,
        version,
        experiment.fitted[kind],
        replace(train, counts={**data.rows.counts, "training": len(train), "evaluation": len(final)}),
        spike_bps=size,
        alert_level=settings.alert_level,
        target=settings.target,
        files=data.paths,
        baselines={each: experiment.fitted[each] for each in BASELINES if each in experiment.fitted},
        parameters={
            "sample_period_s": SAMPLE_PERIOD_S,
            "final_share": settings.final_share,
            "folds": settings.folds,
            "embargo_s": block_s,
            "bootstrap_block_s": block_s,
            "bootstrap_resamples": DECISION_RESAMPLES,
            "seed": settings.seed,
        },
        evaluation=span_of(final.rows, size),
        metrics=_rounded(summary((final,), size, block_s, settings.seed)),
        walk_forward=_rounded(walk_forward),
    )
    return Bundle(manifest, model)


def _rounded(scores: Scores) -> Scores:
    return {
        kind: {name: float(f"{value:.{_DIGITS}g}") for name, value in values.items()} for kind, values in scores.items()
    }
