"""The form that all kinds share, in NumPy; `graph` computes it in ONNX.

    size     = max(feature + shift, low)                    of each column
    unit     = clip(sum of weight * log(size) + bias)       fixed by the kind's design
    location = sum of weight * unit + bias (+ trees)        fitted
    scale    = exp(sum of weight * unit + bias)             fitted

Location and scale are of the logarithm of the volatility in bps. Clipped units keep a row unlike all training rows from
being extrapolated without bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import xgboost

from common.errors import InputError
from common.schema import FeatureSchema
from training.forecasting.distribution import LocationScale
from training.forecasting.target import BPS, Floats

# 33 knots: as good as 101 (docs/decisions/0030), and the tails of one in a thousand are among them.
LEVELS = np.array(
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125]
    + [level / 100 for level in range(15, 90, 5)]
    + [0.875, 0.9, 0.925, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999]
)
MAX_LEVEL = 25.0  # of a unit that is a logarithm: no clipping of a finite volatility that matters
LOG_BPS = math.log(BPS)


@dataclass(frozen=True, slots=True)
class Column:
    """How a feature becomes a size: max(feature + shift, low), or max(|feature + shift|, low) if signed."""

    low: float = 5e-6  # a log return of 0.05 bps, below which a market stands still
    shift: float = 0.0
    signed: bool = False


_COLUMNS = {
    "reference_error_mean": Column(low=1e-3, shift=4.0),  # within ±3 (pipeline/features/trailing.py)
    "reference_error_size": Column(low=1e-3),
    **{f"return_{seconds}s": Column(signed=True) for seconds in (1, 5, 30, 60)},
}


def column_of(name: str) -> Column:
    """How a feature becomes a size."""
    return _COLUMNS.get(name, Column())


@dataclass(frozen=True, slots=True)
class Unit:
    """clip(sum of weights * log sizes + bias, -bound, bound)."""

    name: str
    weights: Mapping[str, float]  # column -> weight
    bias: float = 0.0
    bound: float = MAX_LEVEL


@dataclass(frozen=True)
class Design:
    """Units of a kind, for a schema. Raises InputError if the schema lacks a feature."""

    schema: FeatureSchema
    units: tuple[Unit, ...]
    offset: str = ""  # a unit that the location has with weight 1, whatever the data; "": no such unit

    def __post_init__(self) -> None:
        missing = self._used() - set(self.schema.names)
        if missing:
            raise InputError(f"schema {self.schema.name}: no feature {', '.join(sorted(missing))}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features used, in the schema's order."""
        used = self._used()
        return tuple(name for name in self.schema.names if name in used)

    @property
    def fitted(self) -> list[int]:
        """Places of the units whose weights are fitted."""
        return [place for place, unit in enumerate(self.units) if unit.name != self.offset]

    @property
    def fixed(self) -> list[int]:
        """Places of the offset: at most one."""
        return [place for place, unit in enumerate(self.units) if unit.name == self.offset]

    @cached_property
    def has_signed(self) -> bool:
        """Whether a column needs its absolute value."""
        return any(column_of(name).signed for name in self.names)

    @cached_property
    def span(self) -> slice:
        """The columns of the schema from the first to the last column used."""
        places = [self.schema.names.index(name) for name in self.names] or [0]
        return slice(min(places), max(places) + 1)

    @cached_property
    def shift_low(self) -> Floats:
        """Shift and low of each column of the span, (2, columns); unused columns have a low of 1."""
        names = self.schema.names[self.span]
        both = np.array([np.zeros(len(names)), np.ones(len(names))])
        for name in self.names:
            column = column_of(name)
            both[:, names.index(name)] = column.shift, column.low
        return both

    @cached_property
    def weights(self) -> Floats:
        """Weights from log sizes of the span to units, (columns, units)."""
        names = self.schema.names[self.span]
        matrix = np.zeros((len(names), len(self.units)))
        for number, unit in enumerate(self.units):
            for name, weight in unit.weights.items():
                matrix[names.index(name), number] = weight
        return matrix

    @cached_property
    def bias_bound(self) -> Floats:
        """Bias and bound of each unit, (2, units)."""
        return np.array([[unit.bias, unit.bound] for unit in self.units]).reshape(-1, 2).T

    def unit_values(self, features: Floats) -> Floats:
        """(rows, features of the schema) -> (rows, units)."""
        shift, low = self.shift_low
        bias, bound = self.bias_bound
        shifted = features[:, self.span] + shift
        logs = np.log(np.maximum(np.abs(shifted) if self.has_signed else shifted, low))
        return np.asarray(np.clip(logs @ self.weights + bias, -bound, bound), dtype=np.float64)

    def _used(self) -> set[str]:
        return {name for unit in self.units for name in unit.weights}


@dataclass(frozen=True)
class FittedForecast:
    """A fitted model of any kind."""

    kind: str
    design: Design
    location: Floats  # (units + 1,): weights and bias
    log_scale: Floats  # (units + 1,)
    knots: Floats  # (K,) of scaled residuals, at LEVELS
    floor_bps: float
    trees: bytes = field(default=b"", repr=False)  # XGBoost's JSON over units; their sum is added to the location
    levels: Floats = field(default_factory=lambda: LEVELS)

    @property
    def schema(self) -> FeatureSchema:
        return self.design.schema

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the features that the model uses."""
        return self.design.names

    @cached_property
    def _booster(self) -> Any:
        return xgboost.Booster({"nthread": 1}, model_file=bytearray(self.trees))

    def forecasts(self, features: Floats) -> LocationScale:
        """Forecasts of rows (n, features of the schema)."""
        units = self.design.unit_values(features)
        location = units @ self.location[:-1] + self.location[-1]
        if self.trees:
            location = location + tree_sums(self._booster, units)
        scale = np.exp(units @ self.log_scale[:-1] + self.log_scale[-1])
        return LocationScale(location, scale, self.levels, self.knots, self.floor_bps)

    def to_onnx(self) -> bytes:
        """The graph with inputs and outputs as common/bundle.py describes them; the same bytes for the same fit."""
        from training.forecasting.graph import forecast_graph  # onnx takes a second to import

        return forecast_graph(self)


def tree_sums(booster: Any, units: Floats) -> Floats:
    """Sums of the leaves of units (n, units), (n,). Trees compare in float32, here and in ONNX."""
    sums = booster.predict(xgboost.DMatrix(units.astype(np.float32), nthread=1), output_margin=True)
    return np.asarray(sums, dtype=np.float64)
