"""Training runs of forecasts as folders, made in seconds from a simulated market."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.bundle import Manifest, ManifestSpan
from common.check import Check
from common.schema import CORE_1, FeatureSchema
from pipeline.features.columns import TICK, TickColumns
from pipeline.features.engine import FeatureEngine
from tests.training.synthetic import market
from training.fitting.forecast_experiment import Experiment, Settings, run
from training.forecasting.bundle import make_bundle
from training.forecasting.form import FittedForecast
from training.forecasting.parts import ForecastPart
from training.judging.summary import summary
from training.problem.data.dataset import RecordedTicks
from training.problem.forecast_rows import ForecastRows
from training.problem.target import DEFAULT_TARGET, NS_PER_S
from training.shipping.look_ahead import look_ahead
from training.shipping.tracking.record import log_run

SECONDS = 8 * 3600
STEP_S = 5
AFTER_SHIPPED_NS = 30 * 86_400 * NS_PER_S  # no shipped model has trained on rows of that time
FOLDS = 3
KIND = "har"
Change = Callable[[ForecastRows], ForecastRows]


@dataclass
class Made:
    """The parts of a run; change any of them before `write`."""

    rows: ForecastRows
    fitted: FittedForecast
    model: bytes
    parts: list[ForecastPart]
    manifest: Manifest
    look_ahead: Check | None
    trained: FittedForecast | None = None  # None: fitted
    plots: dict[str, bytes] = field(default_factory=lambda: {"fan.png": b"not a picture"})

    def write(self, runs_dir: Path, started_s: float = 1_765_000_000.0) -> Path:
        return log_run(
            runs_dir,
            self.manifest,
            self.model,
            trained=self.trained or self.fitted,
            rows=self.rows,
            parts=self.parts,
            products=self.rows.products,
            started_s=started_s,
            fold_metrics={f"fold/{self.manifest.kind}/crps": [0.4, 0.5, 0.6]},
            plots=self.plots,
            look_ahead=self.look_ahead,
        )

    def change(self, **values: object) -> None:
        self.manifest = replace_manifest(self.manifest, **values)


def replace_manifest(manifest: Manifest, **values: Any) -> Manifest:
    return msgspec.structs.replace(manifest, **values)


@cache
def recorded(seed: int = 2, seconds: int = SECONDS) -> RecordedTicks:
    """A tick a second of a market whose volatility clusters."""
    time_ns, mid = market(seconds, seed)
    time_ns = time_ns + AFTER_SHIPPED_NS
    random, count = np.random.default_rng(seed), len(time_ns)
    quantity = random.lognormal(size=(2, count))
    columns = TickColumns(
        np.zeros(count, np.int32),
        np.full(count, TICK, np.uint8),
        time_ns,
        np.arange(count, dtype=np.int64),
        mid,
        mid - 0.005,
        mid + 0.005,
        quantity[0],
        quantity[1],
        time_ns.copy(),
    )
    return RecordedTicks(columns, ("BTC-USD",))


@cache
def market_rows(seed: int = 2, schema: FeatureSchema = CORE_1, seconds: int = SECONDS) -> ForecastRows:
    """A row every STEP_S, with the features of the engine."""
    ticks = recorded(seed, seconds).columns
    batch = FeatureEngine(schema).update(ticks)
    mid = (ticks.bid + ticks.ask) / 2
    outcome = DEFAULT_TARGET.outcomes_bps(ticks.event_time_ns, mid, np.zeros(len(ticks), np.int64))
    places = np.flatnonzero(batch.warm & np.isfinite(outcome))[::STEP_S]
    codes: NDArray[np.int64] = np.zeros(len(places), np.int64)
    return ForecastRows(
        schema=schema,
        time_ns=ticks.event_time_ns[places],
        features=batch.values[places],
        outcome_bps=outcome[places],
        product=codes,
        recording=codes,
        products=("BTC-USD",),
        recordings=("simulated",),
        counts={"ticks": len(ticks), "rows": len(places)},
    )


def make(
    *, seed: int = 2, kind: str = KIND, name: str = "volatility", change: Change | None = None, spike_bps: float = 0.0
) -> Made:
    """A run of a kind on the rows of a simulated market. change: of the rows, before the model is trained on them."""
    honest = market_rows(seed)
    rows = honest if change is None else change(honest)
    experiment = experiment_of(kind, rows)
    parts = [*experiment.folds, experiment.final]
    fitted, train, final = experiment.fitted[kind], experiment.train, experiment.final
    block_s = experiment.settings.block_s(train)
    manifest, model = make_bundle(name, "1", fitted, train, spike_bps=spike_bps)
    size = manifest.label.threshold * 1e4
    evaluation = ManifestSpan(int(final.rows.time_ns.min()), int(final.rows.time_ns.max()), len(final), 1)
    manifest = replace_manifest(
        manifest,
        evaluation=evaluation,
        metrics=summary([final], size, block_s, 0),
        walk_forward=summary(experiment.folds, size, block_s, 0),
        parameters={"embargo_s": block_s},
        data=("simulated.ndjson",),
        data_sha256=hashlib.sha256(rows.features.tobytes()).hexdigest(),
    )
    verdict = look_ahead(rows, [recorded(seed)] * len(rows.recordings), 0)
    return Made(rows, fitted, model, parts, manifest, verdict)


def experiment_of(kind: str, rows: ForecastRows) -> Experiment:
    return run(rows, Settings(model_type=kind, folds=FOLDS))


def late(rows: ForecastRows, count: int) -> ForecastRows:
    """Features computed so many rows after the row whose outcome they forecast."""
    kept = rows.take(slice(0, len(rows) - count))
    return replace(kept, features=rows.features[count:])


def copy_of_the_future(rows: ForecastRows) -> ForecastRows:
    """A feature becomes the outcome with noise, of correlation 0.9 (of the logarithms)."""
    log_outcome = np.log(rows.outcome_bps)
    noise = np.random.default_rng(9).normal(size=len(rows)) * log_outcome.std() * np.sqrt(1 / 0.81 - 1)
    features = rows.features.copy()
    features[:, rows.schema.names.index("volatility")] = np.exp(log_outcome + noise) * 1e-4
    return replace(rows, features=features)


def shuffled(rows: ForecastRows) -> ForecastRows:
    """Features and outcomes of rows change places together; the times stay in order."""
    order = np.random.default_rng(9).permutation(len(rows))
    return replace(rows, features=rows.features[order], outcome_bps=rows.outcome_bps[order])


def final_part_copied(rows: ForecastRows) -> ForecastRows:
    """The last fifth of the rows once more, a month earlier."""
    last = rows.take(slice(len(rows) * 4 // 5, len(rows)))
    earlier = replace(last, time_ns=last.time_ns - 30 * 86_400 * NS_PER_S)
    columns = ("time_ns", "features", "outcome_bps", "product", "recording")
    both: dict[str, Any] = {name: np.concatenate([getattr(earlier, name), getattr(rows, name)]) for name in columns}
    return replace(rows, **both)


def without_the_beginning(rows: ForecastRows) -> ForecastRows:
    return rows.take(slice(200, len(rows)))


@cache
def first() -> Made:
    """An honest run. Tests that change it make their own by `make`."""
    return make()


@cache
def later() -> Made:
    """Another honest run of nearly the same rows: another model, about as good."""
    return make(change=without_the_beginning)


@cache
def blind() -> Made:
    """A model that knows no feature: worse than HAR."""
    return make(kind="climatology")


@cache
def leaky() -> Made:
    """A model with a feature that knows the outcome."""
    return make(change=copy_of_the_future)
