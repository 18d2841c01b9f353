"""What every kind of model offers, and what its search may try."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.bundle import Calibration, LinearForm
from common.schema import FeatureSchema
from training.problem.rows import Rows

Value = float | int | str
Params = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Choice:
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class LogRange:
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class IntRange:
    low: int
    high: int  # included
    step: int = 1


Space = Mapping[str, Choice | LogRange | IntRange]


class Fitted(Protocol):
    """A model that has learned. Features are (rows, len(schema)) float64, in the schema's order."""

    @property
    def kind(self) -> str: ...
    @property
    def schema(self) -> FeatureSchema: ...
    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features it looks at."""

    @property
    def params(self) -> Params: ...
    @property
    def calibration(self) -> Calibration: ...

    def logits(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Before calibration, shape (rows,)."""

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(spike), calibrated, shape (rows,)."""

    def calibrated(self, calibration: Calibration) -> Fitted:
        """The same model whose logits go through `calibration`."""

    def on(self, schema: FeatureSchema) -> Fitted:
        """The same model for rows of another schema that has its columns; raises ValueError where it has not."""

    def to_onnx(self) -> bytes:
        """One graph from `features` to `probability`, the same bytes for the same fit."""

    def linear_form(self) -> LinearForm | None:
        """The calibrated model as a sum over logs, where it is one."""


class Kind(Protocol):
    """How a kind of model is made. Fits are deterministic: the same rows, parameters and seed give the same bits."""

    @property
    def name(self) -> str: ...

    def columns(self, schema: FeatureSchema) -> tuple[str, ...]:
        """Names of the features it may look at; raises InputError where the schema lacks what it needs."""

    def defaults(self, schema: FeatureSchema) -> Params:
        """Parameters to begin with: of the ablation, and where data is too short for a search."""

    def space(self, schema: FeatureSchema) -> Space:
        """What a search chooses from; empty where there is nothing to choose."""

    def fit(
        self, rows: Rows, y: NDArray[np.int8], params: Params, seed: int, columns: tuple[str, ...] | None = None
    ) -> Fitted:
        """Fits on (rows,) with labels of both classes; `columns`: all that it may look at, where not None."""


IDENTITY = Calibration(1.0, 0.0)


def sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(logit))
    return np.asarray(np.where(logit >= 0, 1.0, small) / (1.0 + small), dtype=np.float64)


def logit_of_rate(y: NDArray[np.int8]) -> float:
    rate = float(np.clip(np.mean(y), 1e-6, 1 - 1e-6))
    return math.log(rate / (1 - rate))
