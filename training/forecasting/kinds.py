"""The kinds of forecast model. Each kind carries its own label, description and colour for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import xgboost
from sklearn.linear_model import LogisticRegression

from common.errors import InputError, UsageError
from common.schema import FeatureSchema
from training.forecasting import designs, fitting
from training.forecasting.form import Design, FittedForecast, tree_sums
from training.problem.forecast_rows import ForecastRows
from training.problem.target import DEFAULT_TARGET, Floats

SIZE_LEVELS = (0.5, 0.75, 0.9, 0.95, 0.99)  # quantiles of the training rows at which forecasts are scored
LEAST_SIZE_SLOPE = 1e-3  # of the log of the size, so that the probability falls with the size
PENALTY = 1e-4
SCALE_PENALTY = 1e-3


class ForecastKind(Protocol):
    """How a kind of model is made. Fits are deterministic: the same rows, weights and seed give the same bytes."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str:
        """For people."""
        ...

    @property
    def description(self) -> str: ...
    @property
    def colour(self) -> str:
        """Of charts, as #rrggbb."""
        ...

    def design(self, schema: FeatureSchema) -> Design:
        """The features used, and how. Raises InputError if the schema lacks one of them."""
        ...

    def fit(self, rows: ForecastRows, weights: Floats | None = None, seed: int = 0) -> FittedForecast:
        """A model fitted on rows with weights (n,), positive; None: all rows weigh the same."""
        ...


@dataclass(frozen=True, slots=True)
class LinearKind:
    """Location linear in units. The scale is constant, or exp(linear) in units."""

    name: str
    label: str
    description: str
    colour: str
    make_design: Callable[[FeatureSchema], Design]
    penalty: float = 0.0
    has_scale_model: bool = False

    def design(self, schema: FeatureSchema) -> Design:
        return self.make_design(schema)

    def fit(self, rows: ForecastRows, weights: Floats | None = None, seed: int = 0) -> FittedForecast:
        design = self.design(rows.schema)
        units, share = design.unit_values(rows.features), _weights(rows, weights)
        y = np.log(rows.outcome_bps)
        location = _location(design, units, y, share, self.penalty)
        scale = np.zeros(len(design.units) + 1)
        if self.has_scale_model:
            scale = _scale(design, units, y - _linear(units, location), share)
            # Feasible generalized least squares: rows with a small scale weigh more.
            precision = share / np.exp(2 * _linear(units, scale))
            location = _location(design, units, y, precision, self.penalty)
        location, knots = _with_residuals(units, y, location, scale, share)
        location, scale = (fitting.rounded(design.in_log_sizes(each)) for each in (location, scale))
        return FittedForecast(self.name, design, location, scale, knots, DEFAULT_TARGET.floor_bps)


@dataclass(frozen=True, slots=True)
class BoostedKind:
    """A linear kind, and boosted trees over its units for the residual of the location."""

    name: str
    label: str
    description: str
    colour: str
    base: LinearKind
    trees: int = 60
    depth: int = 3
    learning_rate: float = 0.08
    min_child_weight: float = 200.0  # rows

    def design(self, schema: FeatureSchema) -> Design:
        return self.base.design(schema)

    def fit(self, rows: ForecastRows, weights: Floats | None = None, seed: int = 0) -> FittedForecast:
        base = self.base.fit(rows, weights, seed)
        design = base.design
        units, share = design.unit_values(rows.features), _weights(rows, weights)
        y, logs = np.log(rows.outcome_bps), design.log_sizes(rows.features)
        residuals = y - _linear(logs, base.location)
        inputs = units.copy()
        inputs[:, design.fixed] = 0.0  # without the level, the trees apply at every level
        data = xgboost.DMatrix(
            inputs.astype(np.float32), label=residuals, weight=share * len(share) / share.sum(), nthread=1
        )
        booster = xgboost.train(self._settings(seed), data, num_boost_round=self.trees)
        y = y - tree_sums(booster, units)
        scale = fitting.rounded(design.in_log_sizes(_scale(design, units, y - _linear(logs, base.location), share)))
        location, knots = _with_residuals(logs, y, base.location, scale, share)
        trees = bytes(booster.save_raw("json"))
        return replace(base, kind=self.name, location=location, log_scale=scale, knots=knots, trees=trees)

    def _settings(self, seed: int) -> dict[str, Any]:
        return {
            "objective": "reg:squarederror",
            "tree_method": "hist",
            "max_bin": 128,
            "max_depth": self.depth,
            "eta": self.learning_rate,
            "min_child_weight": self.min_child_weight,
            "subsample": 0.7,
            "lambda": 10.0,
            "base_score": 0.0,
            "nthread": 1,  # sums in one order: the same bits each time
            "seed": seed,
            "verbosity": 0,
        }


@dataclass(frozen=True, slots=True)
class LogisticKind:
    """A logistic regression of "volatility >= size" on units and on the log of the size: a regression for all sizes.

    The odds are proportional (P. McCullagh, "Regression models for ordinal data", Journal of the Royal Statistical
    Society B 42, 1980), so log volatility is location + scale * Z with a constant scale. Z is not taken to be logistic,
    but has the quantiles of the residuals, as for other kinds.
    """

    name: str
    label: str
    description: str
    colour: str
    make_design: Callable[[FeatureSchema], Design]

    def design(self, schema: FeatureSchema) -> Design:
        return self.make_design(schema)

    def fit(self, rows: ForecastRows, weights: Floats | None = None, seed: int = 0) -> FittedForecast:
        design = self.design(rows.schema)
        units, share = design.unit_values(rows.features), _weights(rows, weights)
        log_sizes = np.log(np.quantile(rows.outcome_bps, SIZE_LEVELS))
        inputs = np.vstack([np.column_stack([units, np.full(len(units), -size)]) for size in log_sizes])
        events = np.concatenate([np.log(rows.outcome_bps) >= size for size in log_sizes])
        if events.all() or not events.any():
            raise InputError("logistic: all training rows have the same volatility")
        regression = LogisticRegression(solver="newton-cholesky", tol=1e-8)
        fitted = regression.fit(inputs, events, np.tile(share, len(log_sizes)))
        *slopes, of_size = fitted.coef_[0].tolist()
        location = np.append(slopes, fitted.intercept_[0]) / max(of_size, LEAST_SIZE_SLOPE)
        scale = np.append(np.zeros(len(slopes)), -np.log(max(of_size, LEAST_SIZE_SLOPE)))
        location, knots = _with_residuals(units, np.log(rows.outcome_bps), location, scale, share)
        location, scale = (fitting.rounded(design.in_log_sizes(each)) for each in (location, scale))
        return FittedForecast(self.name, design, location, scale, knots, DEFAULT_TARGET.floor_bps)


def _weights(rows: ForecastRows, weights: Floats | None) -> Floats:
    return np.ones(len(rows)) if weights is None else weights


def _linear(units: Floats, coefficients: Floats) -> Floats:
    return np.asarray(units @ coefficients[:-1] + coefficients[-1], dtype=np.float64)


def _location(design: Design, units: Floats, y: Floats, weights: Floats, penalty: float) -> Floats:
    """Weights and bias (units + 1,), 1 for the offset."""
    offset = units[:, design.fixed].sum(axis=1)
    location = np.ones(len(design.units) + 1)
    location[[*design.fitted, -1]] = fitting.ridge(units[:, design.fitted], y - offset, weights, penalty)
    return location


def _with_residuals(
    values: Floats, y: Floats, location: Floats, scale: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    """The location moved to the median of y (n,), and the knots of the scaled residuals.

    values: (n, m); location, scale: (m + 1,). The knot at a half is 0 then: dividing by the scale keeps signs.
    """
    residuals = y - _linear(values, location)
    median = fitting.weighted_quantiles(residuals, weights, np.array([0.5]))[0]
    moved = np.append(location[:-1], location[-1] + median)
    return moved, fitting.knots((residuals - median) / np.exp(_linear(values, scale)), weights)


def _scale(design: Design, units: Floats, residuals: Floats, weights: Floats) -> Floats:
    """Weights and bias of the logarithm of the scale (units + 1,), 0 for units not of the scale."""
    scale = np.zeros(len(design.units) + 1)
    free = [*design.of_scale, -1]
    scale[free] = fitting.log_scale(units[:, design.of_scale], residuals, weights, SCALE_PENALTY)
    return scale


_RIDGE = LinearKind(
    "ridge",
    "Ridge",
    "Ridge regression of log volatility on ratios of trailing windows and, on full/2, on the errors of a reference "
    "forecast; the scale is a second regression, of the size of the residuals.",
    "#0072b2",
    designs.ratios,
    penalty=PENALTY,
    has_scale_model=True,
)
HAR = "har"  # the name of the baseline
KINDS: tuple[ForecastKind, ...] = (
    LinearKind(
        "climatology",
        "Climatology",
        "The distribution of volatility in the training rows, the same for every row.",
        "#999999",
        designs.constant,
    ),
    LinearKind(
        "zscore",
        "z-score",
        "Log volatility linear in that of the last minute, from tick to tick; constant scale.",
        "#56b4e9",
        designs.zscore,
    ),
    LinearKind(
        "ewma",
        "EWMA",
        "Log volatility linear in that of exponentially weighted squared returns (RiskMetrics 1996); constant scale.",
        "#e69f00",
        designs.ewma,
    ),
    LinearKind(
        HAR,
        "HAR",
        "Least squares of log volatility on that of a minute, five minutes and an hour (Corsi 2009); constant scale.",
        "#d55e00",
        designs.har,
    ),
    LogisticKind(
        "logistic",
        "Logistic",
        "A logistic regression on ridge's features and the spike size: a single regression for all sizes.",
        "#cc79a7",
        designs.ratios,
    ),
    _RIDGE,
    BoostedKind(
        "xgboost",
        "XGBoost",
        "Ridge, and boosted trees for the part of log volatility that a linear model misses.",
        "#009e73",
        _RIDGE,
    ),
)


def usable_kinds(schema: FeatureSchema) -> tuple[ForecastKind, ...]:
    """The kinds for which the schema has all features."""

    def fits(kind: ForecastKind) -> bool:
        try:
            kind.design(schema)
        except InputError:
            return False
        return True

    return tuple(kind for kind in KINDS if fits(kind))


def kind_named(name: str) -> ForecastKind:
    """Raises UsageError for an unknown name."""
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise UsageError(f"model kind {name}: expected {', '.join(kind.name for kind in KINDS)}")
