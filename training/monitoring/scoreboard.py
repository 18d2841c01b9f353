"""How good the forecasts of the last while were, for each model that answers, each shadow and each baseline.

The figures are those of training/judging/evaluation, so a live figure and one of `volcast evaluate` are the same of the
same rows. Each forecaster is held to the τ of the bundle it belongs to. Windows end at the newest joined row and
are of event time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.bundle import LinearForm, Manifest
from common.errors import BundleError
from common.schema import FULL_1, SCHEMAS
from training.judging.evaluation.blocks import Blocks
from training.judging.evaluation.figures import Forecast, row_figures
from training.monitoring.history import Growing
from training.monitoring.join import Joined
from training.problem.labels import labels
from training.problem.rows import Rows
from training.shipping.scoring import climatology, linear_probabilities

SCHEMA = FULL_1  # of the features that joined rows carry: a superset of every served schema
METRICS = (
    "base_rate", "pr_auc", "pr_auc_lift", "roc_auc", "brier", "brier_skill", "log_loss", "ece", "ece_equal_mass",
    "precision", "recall", "f1", "alert_rate", "mean_probability",
)  # fmt: skip
MAX_ROWS = 1_000_000  # of one forecaster, 25 bytes each: more than a day of ten products
MODEL = "model"

Role = Literal["answered", "shadow"]
Predict = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Served:
    """A bundle: its manifest, and what it says of rows (n, features of its schema)."""

    manifest: Manifest
    predict: Predict


@dataclass(frozen=True, slots=True)
class Line:
    """One forecaster over one window. A metric that the rows do not define is absent."""

    model: str  # "NAME/VERSION"
    role: Role
    forecaster: str  # MODEL, or the name of one of its baselines
    window: str
    rows: int
    metrics: Mapping[str, float]


class _Series:
    """Forecasts of one forecaster that have come true or not, in the order they were joined."""

    def __init__(self, threshold: float, climatology: float) -> None:
        self.threshold = threshold
        self._climatology = climatology
        self._time_ns = Growing(np.int64)
        self._y = Growing(np.int8)
        self._probability = Growing(np.float64)

    def add(self, time_ns: NDArray[np.int64], y: NDArray[np.int8], probability: NDArray[np.float64]) -> None:
        for column, rows in ((self._time_ns, time_ns), (self._y, y), (self._probability, probability)):
            column.add(rows)

    def drop(self, before_ns: int) -> None:
        """Drops the first rows, as far as they are older. Products come one by one, so a few old ones may stay."""
        times = self._time_ns.rows
        late = np.flatnonzero(times >= before_ns)
        count = int(late[0]) if len(late) else len(times)
        count = max(count, len(times) - MAX_ROWS)
        for column in (self._time_ns, self._y, self._probability):
            column.drop(count)

    def figures(self, after_ns: int) -> tuple[int, dict[str, float]]:
        """Rows, and metrics, of what is newer."""
        kept = self._time_ns.rows > after_ns
        rows = int(np.count_nonzero(kept))
        if rows == 0:
            return 0, {}
        forecast = Forecast(
            self._y.rows[kept].astype(np.int8),
            self._probability.rows[kept].astype(np.float64),
            self._climatology,
            self.threshold,
        )
        whole = Blocks(np.zeros(rows, np.int64), 1)
        found = row_figures(forecast, whole, whole.once())
        return rows, {name: float(found[name][0]) for name in METRICS if not math.isnan(found[name][0])}


class Scoreboard:
    """bundle gives a model by "NAME/VERSION" and raises BundleError; shadows_of those of a model's name."""

    def __init__(
        self,
        windows_s: Mapping[str, float],
        bundle: Callable[[str], Served],
        shadows_of: Callable[[str], tuple[str, ...]] = lambda name: (),
    ) -> None:
        self._windows_ns = {name: int(seconds * 1e9) for name, seconds in windows_s.items()}
        self._bundle = bundle
        self._shadows_of = shadows_of
        self._series: dict[tuple[str, Role, str], _Series] = {}
        self._newest_ns = 0
        self.unscored: Counter[str] = Counter()  # rows, by reason
        self.refused: dict[str, str] = {}  # model -> why it could not be had

    def add(self, joined: Joined) -> NDArray[np.float64]:
        """Takes joined rows; gives what became of each by its model's τ: 1, 0, or NaN where the model's bundle is
        not to be had."""
        outcome = np.full(len(joined), np.nan)
        if len(joined) == 0:
            return outcome
        time_ns = np.array([one.event_time_ns for one in joined.said], np.int64)
        made_by = np.array([one.model for one in joined.said])
        oldest_ns = self._newest_ns - max(self._windows_ns.values())
        if time_ns.max() < oldest_ns:  # the clock was set back, or an older recording follows
            self._series.clear()
            self._newest_ns = 0
        self._newest_ns = max(self._newest_ns, int(time_ns.max()))
        for model in sorted(set(made_by.tolist())):
            rows = np.flatnonzero(made_by == model)
            outcome[rows] = self._answered(model, joined, rows, time_ns[rows])
        names = sorted({model.rpartition("/")[0] for model in made_by.tolist()})
        for shadow in (one for name in names for one in self._shadows_of(name) if one not in made_by):
            self._shadow(shadow, joined, time_ns)
        oldest_ns = self._newest_ns - max(self._windows_ns.values())
        for series in self._series.values():
            series.drop(oldest_ns)
        return outcome

    def lines(self) -> list[Line]:
        return [
            Line(model, role, forecaster, window, *series.figures(self._newest_ns - window_ns))
            for (model, role, forecaster), series in sorted(self._series.items())
            for window, window_ns in self._windows_ns.items()
        ]

    def _answered(
        self, model: str, joined: Joined, rows: NDArray[np.int64], time_ns: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        served = self._served(model, len(rows))
        if served is None:
            return np.full(len(rows), np.nan)
        y = labels(joined.future_volatility[rows], served.manifest.label.threshold)
        probability = np.array([joined.said[row].probability for row in rows.tolist()])
        threshold = joined.said[int(rows[-1])].threshold
        self._take(model, "answered", MODEL, served.manifest, threshold, time_ns, y, probability)
        for name, form in served.manifest.baselines.items():
            if name != served.manifest.kind:
                self._baseline(model, name, form, served.manifest, joined.features[rows], time_ns, y)
        return y.astype(np.float64)

    def _baseline(
        self, model: str, name: str, form: LinearForm, manifest: Manifest, features: NDArray[np.float64],
        time_ns: NDArray[np.int64], y: NDArray[np.int8],
    ) -> None:  # fmt: skip
        if not set(form.columns) <= set(SCHEMA.names):
            self.unscored[f"{model} {name}: no such features"] += len(y)
            return
        whole = Rows(SCHEMA, np.zeros(len(y), np.int64), np.zeros(len(y), np.int64), features, np.zeros(len(y)))
        warm = np.isfinite(whole.columns(form.columns)).all(axis=1)
        self.unscored[f"{model} {name}: not warm"] += int(np.count_nonzero(~warm))
        probability = linear_probabilities(form, whole.take(np.flatnonzero(warm)))
        self._take(model, "answered", name, manifest, form.decision_threshold, time_ns[warm], y[warm], probability)

    def _shadow(self, model: str, joined: Joined, time_ns: NDArray[np.int64]) -> None:
        served = self._served(model, len(joined))
        if served is None:
            return
        manifest = served.manifest
        names = manifest.feature_schema().names
        if not set(names) <= set(SCHEMA.names):
            known = " or ".join(SCHEMAS)
            self.refused[model] = f"its schema is {manifest.schema.name}; expected {known}"
            return
        features = joined.features[:, [SCHEMA.names.index(name) for name in names]]
        warm = np.isfinite(features).all(axis=1)
        self.unscored[f"{model}: not warm"] += int(np.count_nonzero(~warm))
        if not warm.any():
            return
        y = labels(joined.future_volatility[warm], manifest.label.threshold)
        probability = served.predict(features[warm])
        self._take(model, "shadow", MODEL, manifest, manifest.decision_threshold, time_ns[warm], y, probability)

    def _served(self, model: str, rows: int) -> Served | None:
        try:
            served = self._bundle(model)
        except BundleError as error:
            self.refused[model] = str(error)
            self.unscored[f"{model}: no bundle"] += rows
            return None
        self.refused.pop(model, None)
        return served

    def _take(
        self, model: str, role: Role, forecaster: str, manifest: Manifest, threshold: float,
        time_ns: NDArray[np.int64], y: NDArray[np.int8], probability: NDArray[np.float64],
    ) -> None:  # fmt: skip
        key = (model, role, forecaster)
        if key not in self._series:
            self._series[key] = _Series(threshold, climatology(manifest))
        self._series[key].threshold = threshold
        self._series[key].add(time_ns, y, probability)
