"""The form that all kinds share, in NumPy; `graph` computes it in ONNX.

    log size = log(clip(feature, LOW, HIGH))               of each column used
    location = sum of weight * log size + bias             fitted; boosted trees may add to it
    scale    = exp(sum of weight * log size + bias)        fitted

Location and scale are of the logarithm of the volatility in bps. All weights are in terms of logarithms, so a unit,
such as the ratio of two windows, is a difference of log sizes. Clipped sizes keep every answer finite.
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
from training.problem.target import BPS, Floats

# 33 levels with tails of one in a thousand. docs/decisions/0030-target-and-kinds.md compares them with 101.
LEVELS = np.array(
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125]
    + [level / 100 for level in range(15, 90, 5)]
    + [0.875, 0.9, 0.925, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999]
)
LOW, HIGH = 5e-6, 100.0  # as log return: 0.05 bps, below which a market stands still
LOG_BPS = math.log(BPS)


@dataclass(frozen=True, slots=True)
class Unit:
    """Sum of weights * log sizes + bias: what a weight is fitted for."""

    name: str
    weights: Mapping[str, float]  # feature -> weight
    bias: float = 0.0


@dataclass(frozen=True)
class Design:
    """Units of a kind, for a schema. Raises InputError if the schema lacks a feature."""

    schema: FeatureSchema
    units: tuple[Unit, ...]
    offset: str = ""  # a unit that the location has with weight 1, whatever the data; "": no such unit
    offset_in_scale: bool = False  # the offset has a fitted weight in the scale
    signed: bool = False  # features may be negative; their absolute values are used

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
    def of_scale(self) -> list[int]:
        """Places of the units whose weights are fitted in the scale."""
        return list(range(len(self.units))) if self.offset_in_scale else self.fitted

    @property
    def fixed(self) -> list[int]:
        """Places of the offset: at most one."""
        return [place for place, unit in enumerate(self.units) if unit.name == self.offset]

    @cached_property
    def span(self) -> slice:
        """The columns of the schema from the first to the last column used."""
        places = [self.schema.names.index(name) for name in self.names] or [0]
        return slice(min(places), max(places) + 1)

    @cached_property
    def unit_weights(self) -> Floats:
        """Weights from log sizes of the span to units, and the units' biases, (columns + 1, units)."""
        names = self.schema.names[self.span]
        matrix = np.zeros((len(names) + 1, len(self.units)))
        for number, unit in enumerate(self.units):
            matrix[-1, number] = unit.bias
            for name, weight in unit.weights.items():
                matrix[names.index(name), number] = weight
        return matrix

    def log_sizes(self, features: Floats) -> Floats:
        """(rows, features of the schema) -> (rows, columns of the span)."""
        columns = features[:, self.span]
        sizes = np.clip(np.abs(columns) if self.signed else columns, LOW, HIGH)
        return np.asarray(np.log(sizes), dtype=np.float64)

    def unit_values(self, features: Floats) -> Floats:
        """(rows, features of the schema) -> (rows, units)."""
        values: Floats = self.log_sizes(features) @ self.unit_weights[:-1] + self.unit_weights[-1]
        return values

    def in_log_sizes(self, coefficients: Floats) -> Floats:
        """Weights and bias of units (units + 1,) as weights and bias of log sizes, (columns + 1,)."""
        combined: Floats = self.unit_weights @ coefficients[:-1]
        combined[-1] += coefficients[-1]
        return combined

    def _used(self) -> set[str]:
        return {name for unit in self.units for name in unit.weights}


@dataclass(frozen=True)
class FittedForecast:
    """A fitted model of any kind.

    location, log_scale: (columns of the design's span + 1,), weights of log sizes and bias. knots: (K,), quantiles of
    scaled residuals at `levels`; the knot at 0.5 is 0, so the location is the median.
    """

    kind: str
    design: Design
    location: Floats
    log_scale: Floats
    knots: Floats
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
        logs = self.design.log_sizes(features)
        location = logs @ self.location[:-1] + self.location[-1]
        if self.trees:
            location = location + tree_sums(self._booster, self.design.unit_values(features))
        scale = np.exp(logs @ self.log_scale[:-1] + self.log_scale[-1])
        return LocationScale(location, scale, self.levels, self.knots, self.floor_bps)


def tree_sums(booster: Any, units: Floats) -> Floats:
    """Sums of the leaves of units (n, units), (n,). Trees compare in float32, here and in ONNX."""
    sums = booster.predict(xgboost.DMatrix(units.astype(np.float32), nthread=1), output_margin=True)
    return np.asarray(sums, dtype=np.float64)
