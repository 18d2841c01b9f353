"""A training run from recordings to a bundle and the folder of the run: shared by `volcast train` and `retrain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import UsageError
from common.schema import CORE_1, SCHEMAS
from common.steps import steps
from training import FOLDS, TICKS_FOLDS
from training.fitting import experiment
from training.fitting.experiment import Experiment, Settings
from training.fitting.pool import open_pool
from training.fitting.search import Budget
from training.problem.data import Dataset, load
from training.shipping.bundle import Bundle, build_bundle
from training.shipping.onnx_model import OnnxModel
from training.shipping.tracking.experiments import log_experiment

# About the last hour that was recorded: of each piece the first five minutes give no row.
TICKS_THRESHOLD_ROWS = 1800


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """The options of the command line that decide what is trained."""

    paths: list[Path]
    model_type: str
    schema_name: str | None
    folds: int | None
    threshold_rows: int | None
    budget: Budget
    seed: int
    cluster: str | None  # None: in this process


def settings_of(request: TrainingRequest, dataset: Dataset) -> Settings:
    """Settings of the request; if it leaves the schema, folds or rows of τ open, the data decides."""
    of_ticks = dataset.schema.name in SCHEMAS
    schema = SCHEMAS[request.schema_name or CORE_1.name] if of_ticks else dataset.schema
    if request.schema_name and not of_ticks:
        raise UsageError(f"--schema {request.schema_name}: {dataset.kind} have the features of {dataset.schema.name}")
    # Ticks are few hours on three days of unlike volatility (docs/decisions/0004).
    threshold_rows = TICKS_THRESHOLD_ROWS if of_ticks else 0
    return Settings(
        model_type=request.model_type,
        schema=schema,
        horizon_s=dataset.horizon_s,
        window_s=dataset.window_s,
        sample_period_s=dataset.sample_period_s,
        folds=request.folds or (TICKS_FOLDS if of_ticks else FOLDS),
        threshold_rows=threshold_rows if request.threshold_rows is None else request.threshold_rows,
        budget=request.budget,
        seed=request.seed,
    )


@dataclass(frozen=True, slots=True)
class TrainedBundle:
    """A bundle, its latency for one row in µs, and the experiment and data behind it."""

    bundle: Bundle
    latency_us: float
    dataset: Dataset
    experiment: Experiment


def train_bundle(request: TrainingRequest, name: str, version: str) -> TrainedBundle:
    """Reads the recordings, trains every kind, exports the chosen model. version: recorded in the manifest."""
    with steps() as step:
        step(f"reading {len(request.paths)} files, computing features")
        dataset = load(request.paths, progress=step)
        dataset.require_moves()
        settings = settings_of(request, dataset)
        step("starting the workers" if request.cluster else "training")
        with open_pool(request.cluster) as pool:
            result = experiment.run(dataset.rows, settings, step, pool)
        step("exporting, comparing on every row")
        bundle = build_bundle(name, version, dataset, result)
        step("timing")
        row = experiment.on_schema(dataset.rows, result.schema).features[:1]
        return TrainedBundle(bundle, OnnxModel(bundle.model).one_row_us(row), dataset, result)


def keep_run(trained: TrainedBundle, runs_dir: Path, started_s: float, key: str = "") -> Path:
    """Evaluates the run and writes its folder, which is returned."""
    with steps() as step:
        return log_experiment(
            runs_dir, trained.bundle, trained.dataset, trained.experiment, started_s=started_s, key=key, progress=step
        )
