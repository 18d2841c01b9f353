"""Scores of the last hours' forecasts, for each answering model, each shadow and each baseline.

Scores are those of training/judging, so a live score and a score of `volcast evaluate` agree on the same rows.
Forecasts are scored at the size that was served. An old-style model is scored by its probability at its own size.
Windows are of event time and end at the newest joined row.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import BundleError
from common.schema import SCHEMAS
from training.forecasting.distribution import Forecasts
from training.judging.events import brier, detection, log_loss
from training.monitoring.history import Growing
from training.monitoring.join import Joined
from training.monitoring.served import DISTRIBUTION, SCHEMA, Served, distribution_scores
from training.problem.target import Floats, Ints

METRICS = (
    *DISTRIBUTION, "base_rate", "event_rate", "pr_auc", "pr_auc_lift", "roc_auc", "brier", "brier_skill", "log_loss",
    "ece", "precision", "recall", "f1", "alert_rate", "mean_probability", "max_difference",
)  # fmt: skip
MAX_ROWS = 200_000  # of a forecaster, 72 bytes each: more than a day of ten products
MODEL = "model"
ECE_BINS = 15

Role = Literal["answered", "shadow"]

# Columns of a series: event, probability, base rate, difference to the recomputed probability, then DISTRIBUTION.
_EVENT, _PROBABILITY, _BASE_RATE, _DIFFERENCE, _FIRST_SCORE = range(5)
_WIDTH = _FIRST_SCORE + len(DISTRIBUTION)


@dataclass(frozen=True, slots=True)
class Line:
    """A forecaster over a window. A metric that the rows do not define is absent."""

    model: str  # "NAME/VERSION"
    role: Role
    forecaster: str  # MODEL, or the name of a baseline of the model
    window: str
    rows: int
    metrics: Mapping[str, float]


class _Series:
    """Scored rows of a forecaster, in the order of the join."""

    def __init__(self) -> None:
        self.alert_level = 0.5
        self._time_ns = Growing(np.int64)
        self._values = Growing(np.float64, _WIDTH)

    def __len__(self) -> int:
        return len(self._time_ns)

    def add(self, time_ns: Ints, values: Floats) -> None:
        """Rows (n,) and their columns (n, _WIDTH)."""
        self._time_ns.add(time_ns)
        self._values.add(values)

    def drop(self, before_ns: int) -> None:
        """Drops old rows from the front. Rows are ordered by product within a batch, so a few old rows may stay."""
        times = self._time_ns.rows
        recent = np.flatnonzero(times >= before_ns)
        count = int(recent[0]) if len(recent) else len(times)
        count = max(count, len(times) - MAX_ROWS)
        self._time_ns.drop(count)
        self._values.drop(count)

    def metrics(self, after_ns: int) -> tuple[int, dict[str, float]]:
        """Number of newer rows, and their metrics."""
        values = self._values.rows[self._time_ns.rows > after_ns]
        return len(values), metrics_of(values, self.alert_level) if len(values) else {}


def metrics_of(values: Floats, alert_level: float) -> dict[str, float]:
    """METRICS of rows (n, _WIDTH), n > 0, without the metrics that the rows do not define."""
    event, probability, base_rate = values[:, _EVENT] > 0, values[:, _PROBABILITY], values[:, _BASE_RATE]
    ranks = detection(event, probability, alert_level)
    mean_brier = float(brier(event, probability).mean())
    of_base_rate = float(brier(event, base_rate).mean())
    _, false_positive, _, true_positive = ranks.counts
    alerts = false_positive + true_positive
    metrics = {
        "base_rate": float(base_rate.mean()),
        "event_rate": ranks.event_rate,
        "pr_auc": ranks.pr_auc,
        "pr_auc_lift": ranks.pr_auc / ranks.event_rate if event.any() else math.nan,
        "roc_auc": ranks.roc_auc,
        "brier": mean_brier,
        "brier_skill": 1 - mean_brier / of_base_rate if of_base_rate else math.nan,
        "log_loss": float(log_loss(event, probability).mean()),
        "ece": calibration_error(event, probability),
        "precision": ranks.precision if alerts else math.nan,
        "recall": ranks.recall if event.any() else math.nan,
        "f1": ranks.f1 if event.any() or alerts else math.nan,
        "alert_rate": alerts / len(event),
        "mean_probability": float(probability.mean()),
    }
    for name, column in zip(
        ("max_difference", *DISTRIBUTION), values[:, _DIFFERENCE : _FIRST_SCORE + len(DISTRIBUTION)].T, strict=True
    ):
        known = column[~np.isnan(column)]
        if len(known):
            metrics[name] = float(known.max() if name == "max_difference" else known.mean())
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def calibration_error(event: NDArray[np.bool_], probability: Floats) -> float:
    """Expected calibration error: mean distance of probability and frequency over ECE_BINS bins of equal width.

    C. Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3.
    """
    bins = np.minimum((probability * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    return float(np.abs(np.bincount(bins, event - probability, ECE_BINS)).sum() / len(event))


class Scoreboard:
    """bundle: returns a model by "NAME/VERSION", or raises BundleError. shadows_of: shadows of a model's name."""

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
        self.refused: dict[str, str] = {}  # model -> reason why it is not scored

    def add(self, joined: Joined) -> Floats:
        """Scores joined rows. Returns whether a spike of the served size followed each: 1, 0, or NaN without a bundle
        that states the size."""
        spike = np.full(len(joined), np.nan)
        if len(joined) == 0:
            return spike
        time_ns = np.array([answer.event_time_ns for answer in joined.answers], np.int64)
        sizes = np.array([answer.spike_bps for answer in joined.answers])
        models = np.array([answer.model for answer in joined.answers])
        self._begin_anew_before(int(time_ns.max()))
        for model in sorted(set(models.tolist())):
            rows = np.flatnonzero(models == model)
            served = self._served(model, len(rows))
            if served is not None:
                sizes[rows] = served.sizes_bps(sizes[rows])
                spike[rows] = self._answered(model, served, joined, rows, time_ns[rows], sizes[rows])
        for name in sorted({model.rpartition("/")[0] for model in models.tolist()}):
            for shadow in self._shadows_of(name):
                if shadow not in models:
                    self._shadow(shadow, joined, time_ns, sizes)
        oldest_ns = self._newest_ns - max(self._windows_ns.values())
        for series in self._series.values():
            series.drop(oldest_ns)
        return spike

    def lines(self) -> list[Line]:
        return [
            Line(model, role, forecaster, window, *series.metrics(self._newest_ns - window_ns))
            for (model, role, forecaster), series in sorted(self._series.items())
            for window, window_ns in self._windows_ns.items()
        ]

    def _begin_anew_before(self, newest_ns: int) -> None:
        """Forgets all rows if the clock was set back, or an older recording follows."""
        if newest_ns < self._newest_ns - max(self._windows_ns.values()):
            self._series.clear()
            self._newest_ns = 0
        self._newest_ns = max(self._newest_ns, newest_ns)

    def _answered(self, model: str, served: Served, joined: Joined, rows: Ints, time_ns: Ints, sizes: Floats) -> Floats:
        answers = [joined.answers[row] for row in rows.tolist()]
        outcome = joined.outcome_bps[rows]
        values = _values(outcome, sizes, np.array([answer.probability for answer in answers]), served)
        columns = _columns(served)
        features = joined.features[rows] if columns is None else joined.features[np.ix_(rows, columns)]
        warm = _warm(features) if columns is not None else np.zeros(len(rows), np.bool_)
        self._count(f"{model}: not warm", ~warm)
        if warm.any():
            recomputed = served.probabilities(features[warm], sizes[warm])
            values[warm, _DIFFERENCE] = np.abs(values[warm, _PROBABILITY] - recomputed)
            _score(values, warm, served.forecasts(features[warm]), outcome, served)
            for kind, forecasts in served.baselines(features[warm]).items():
                of_kind = _values(outcome[warm], sizes[warm], forecasts.exceedance(sizes[warm]), served)
                _score(of_kind, np.ones(len(of_kind), np.bool_), forecasts, outcome[warm], served)
                self._take(model, "answered", kind, served.manifest.decision_threshold, time_ns[warm], of_kind)
        self._take(model, "answered", MODEL, answers[-1].threshold, time_ns, values)
        return values[:, _EVENT]

    def _shadow(self, model: str, joined: Joined, time_ns: Ints, requested: Floats) -> None:
        """requested: sizes that were served, (n,), or 0."""
        served = self._served(model, len(joined))
        if served is None:
            return
        columns = _columns(served)
        if columns is None:
            known = " or ".join(SCHEMAS)
            self.refused[model] = f"its schema is {served.manifest.schema.name}; expected {known}"
            return
        features = joined.features[:, columns]
        warm = _warm(features)
        self._count(f"{model}: not warm", ~warm)
        if not warm.any():
            return
        sizes, outcome = served.sizes_bps(requested)[warm], joined.outcome_bps[warm]
        values = _values(outcome, sizes, served.probabilities(features[warm], sizes), served)
        _score(values, np.ones(len(values), np.bool_), served.forecasts(features[warm]), outcome, served)
        self._take(model, "shadow", MODEL, served.manifest.decision_threshold, time_ns[warm], values)

    def _count(self, reason: str, rows: NDArray[np.bool_]) -> None:
        if rows.any():
            self.unscored[reason] += int(np.count_nonzero(rows))

    def _served(self, model: str, rows: int) -> Served | None:
        try:
            served = self._bundle(model)
        except BundleError as error:
            self.refused[model] = str(error)
            self.unscored[f"{model}: no bundle"] += rows
            return None
        self.refused.pop(model, None)
        return served

    def _take(self, model: str, role: Role, forecaster: str, alert_level: float, time_ns: Ints, values: Floats) -> None:
        series = self._series.setdefault((model, role, forecaster), _Series())
        series.alert_level = alert_level
        series.add(time_ns, values)


def _columns(served: Served) -> Ints | None:
    """Places of the model's features in SCHEMA; None: SCHEMA lacks a feature."""
    names = served.manifest.feature_schema().names
    return np.array([SCHEMA.names.index(name) for name in names]) if set(names) <= set(SCHEMA.names) else None


def _warm(features: Floats) -> NDArray[np.bool_]:
    """Marks rows of features (n, k) that are all finite."""
    return np.asarray(np.isfinite(features).all(axis=1), np.bool_)


def _values(outcome: Floats, sizes: Floats, probability: Floats, served: Served) -> Floats:
    """Columns of rows (n, _WIDTH), without difference and scores of the distribution."""
    values = np.full((len(outcome), _WIDTH), np.nan)
    values[:, _EVENT] = outcome >= sizes
    values[:, _PROBABILITY] = probability
    values[:, _BASE_RATE] = served.base_rates(sizes)
    return values


def _score(
    values: Floats, rows: NDArray[np.bool_], forecasts: Forecasts | None, outcome: Floats, served: Served
) -> None:
    """Writes the scores of the distribution of `rows`, which `forecasts` forecast, into values (n, _WIDTH)."""
    if forecasts is not None:
        values[rows, _FIRST_SCORE:] = distribution_scores(forecasts, outcome[rows], served.floor_bps)
