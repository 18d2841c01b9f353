"""Logistic regressions over logs of sizes: the three baselines, HAR of returns, and the model of many inputs.

All are one form, standardize → logistic regression with an L2 penalty, over different inputs. Classes
are not weighted: what is wanted is the probability of a spike, and weights would inflate it.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from common.bundle import Calibration, LinearForm
from common.errors import InputError
from common.schema import FeatureSchema
from training.models import graphs
from training.models.base import IDENTITY, Choice, Fitted, LogRange, Params, Space, sigmoid
from training.models.transforms import Terms, keeps_sign, usable
from training.problem.rows import Rows

CURRENT_WINDOW_S = 60  # of the z-score: as long as the horizon
HAR_SCALES = 3
_VOLATILITY = re.compile(r"volatility(?:_(\d+)s)?")
_RETURN = re.compile(r"return_(\d+)s")
_CHARS = "+"  # between the names of HAR's windows in its parameter


@dataclass(frozen=True, slots=True)
class FittedLinear:
    kind: str
    schema: FeatureSchema
    params: Params
    terms: Terms
    pipeline: Any  # of scikit-learn, which ships no types
    calibration: Calibration = IDENTITY

    @property
    def columns(self) -> tuple[str, ...]:
        return self.terms.names

    def logits(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self.pipeline.decision_function(self.terms.inputs(features)), dtype=np.float64)

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        return sigmoid(self.calibration.slope * self.logits(features) + self.calibration.intercept)

    def calibrated(self, calibration: Calibration) -> FittedLinear:
        return replace(self, calibration=calibration)

    def on(self, schema: FeatureSchema) -> FittedLinear:
        return replace(self, schema=schema, terms=Terms.of(schema, self.terms.names))

    def weights(self) -> tuple[NDArray[np.float64], float]:
        """Weights (terms,) and bias with all folded in: P = sigmoid(inputs · weights + bias)."""
        scaler, regression = self.pipeline[0], self.pipeline[1]
        weights = regression.coef_[0] / scaler.scale_
        bias = float(regression.intercept_[0] - weights @ scaler.mean_)
        return weights * self.calibration.slope, bias * self.calibration.slope + self.calibration.intercept

    def to_onnx(self) -> bytes:
        weights, bias = self.weights()
        return graphs.linear_graph(self.schema, self.terms, weights, bias)

    def linear_form(self) -> LinearForm | None:
        if any(keeps_sign(name) for name in self.terms.names):
            return None
        weights, bias = self.weights()
        rounded = tuple(graphs.rounded(value) for value in weights)
        return LinearForm(self.terms.names, self.terms.offsets, rounded, graphs.rounded(bias))


def fit_linear(kind: str, rows: Rows, y: NDArray[np.int8], params: Params, columns: tuple[str, ...]) -> FittedLinear:
    """Fits on (rows,) and labels of both classes. params["C"]: scikit-learn's, 1.0 where not named."""
    # Newton's method converges to the last bits, so the same data gives the same bundle on any machine.
    regression = LogisticRegression(C=float(params.get("C", 1.0)), solver="newton-cholesky", tol=1e-10, max_iter=200)
    pipeline: Pipeline = make_pipeline(StandardScaler(), regression)
    terms = Terms.of(rows.schema, columns)
    return FittedLinear(kind, rows.schema, dict(params), terms, pipeline.fit(terms.inputs(rows.features), y))


def windows_s(schema: FeatureSchema) -> dict[int, str]:
    """Realized volatilities of the schema by their window in seconds, shortest first; `volatility` is 60 s."""
    found = {}
    for name in schema.names:
        if match := _VOLATILITY.fullmatch(name):
            found[int(match[1] or 60)] = name
    return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class ZScore:
    """How unusual the current window's volatility is: the z-score of its log, put through a logistic regression."""

    name: str = "zscore"

    def columns(self, schema: FeatureSchema) -> tuple[str, ...]:
        windows = windows_s(schema)
        if not windows:
            raise InputError(f"model zscore: schema {schema.name} has no feature `volatility`")
        # The one nearest to the horizon, where the schema has none as long.
        return (windows[min(windows, key=lambda window: abs(window - CURRENT_WINDOW_S))],)

    def defaults(self, schema: FeatureSchema) -> Params:
        return {}

    def space(self, schema: FeatureSchema) -> Space:
        return {}

    def fit(
        self, rows: Rows, y: NDArray[np.int8], params: Params, seed: int, columns: tuple[str, ...] | None = None
    ) -> Fitted:
        return fit_linear(self.name, rows, y, params, self.columns(rows.schema))


@dataclass(frozen=True, slots=True)
class Ewma:
    """Exponentially weighted volatility: RiskMetrics (J.P. Morgan/Reuters 1996, 4th ed.), decay by the second."""

    name: str = "ewma"

    def columns(self, schema: FeatureSchema) -> tuple[str, ...]:
        found = tuple(name for name in schema.names if name.startswith("ewma"))
        if not found:
            raise InputError(f"model ewma: schema {schema.name} has no feature `ewma_volatility`")
        return found

    def defaults(self, schema: FeatureSchema) -> Params:
        return {"column": self.columns(schema)[0]}

    def space(self, schema: FeatureSchema) -> Space:
        found = self.columns(schema)
        return {"column": Choice(found)} if len(found) > 1 else {}

    def fit(
        self, rows: Rows, y: NDArray[np.int8], params: Params, seed: int, columns: tuple[str, ...] | None = None
    ) -> Fitted:
        return fit_linear(self.name, rows, y, params, (str(params["column"]),))


@dataclass(frozen=True, slots=True)
class Har:
    """Corsi 2009, "A simple approximate long-memory model of realized volatility", J. Financial Econometrics 7.

    Regresses on the (log) volatility of a short, a middle and a long window; which three, the search says.
    """

    name: str = "har"

    def columns(self, schema: FeatureSchema) -> tuple[str, ...]:
        found = tuple(windows_s(schema).values())
        if len(found) < HAR_SCALES:
            raise InputError(
                f"model har: schema {schema.name} has {len(found)} windows of volatility, {HAR_SCALES} are needed "
                "(har_returns needs one)"
            )
        return found

    def defaults(self, schema: FeatureSchema) -> Params:
        # The horizon's own window between the shortest and the longest.
        found = self.columns(schema)
        return {"windows": _CHARS.join((found[0], found[len(found) // 2], found[-1]))}

    def space(self, schema: FeatureSchema) -> Space:
        triples = itertools.combinations(self.columns(schema), HAR_SCALES)
        return {"windows": Choice(tuple(_CHARS.join(triple) for triple in triples))}

    def fit(
        self, rows: Rows, y: NDArray[np.int8], params: Params, seed: int, columns: tuple[str, ...] | None = None
    ) -> Fitted:
        return fit_linear(self.name, rows, y, params, tuple(str(params["windows"]).split(_CHARS)))


@dataclass(frozen=True, slots=True)
class HarReturns:
    """HAR for a schema with one window of volatility, as core/1: its shorter horizons are absolute returns.

    An absolute return measures the volatility of its span as the root of its squared return does, only noisier
    (Forsberg and Ghysels 2007, "Why do absolute returns predict volatility so well?", J. Financial Econometrics 5).
    """

    name: str = "har_returns"

    def columns(self, schema: FeatureSchema) -> tuple[str, ...]:
        (volatility,) = ZScore().columns(schema)
        spans = {int(match[1]): name for name in schema.names if (match := _RETURN.fullmatch(name))}
        found = tuple(name for span, name in sorted(spans.items()) if span < CURRENT_WINDOW_S)
        if len(found) < HAR_SCALES - 1:
            raise InputError(
                f"model har_returns: schema {schema.name} has {len(found)} returns over less than {CURRENT_WINDOW_S} "
                f"s, {HAR_SCALES - 1} are needed"
            )
        return (*found, volatility)

    def defaults(self, schema: FeatureSchema) -> Params:
        *found, volatility = self.columns(schema)
        return {"windows": _CHARS.join((found[0], found[-1], volatility))}

    def space(self, schema: FeatureSchema) -> Space:
        *found, volatility = self.columns(schema)
        pairs = itertools.combinations(found, HAR_SCALES - 1)
        return {"windows": Choice(tuple(_CHARS.join((*pair, volatility)) for pair in pairs))}

    def fit(
        self, rows: Rows, y: NDArray[np.int8], params: Params, seed: int, columns: tuple[str, ...] | None = None
    ) -> Fitted:
        return fit_linear(self.name, rows, y, params, tuple(str(params["windows"]).split(_CHARS)))


@dataclass(frozen=True, slots=True)
class Logistic:
    """Every feature that has no price in it."""

    name: str = "logistic"

    def columns(self, schema: FeatureSchema) -> tuple[str, ...]:
        return usable(schema)

    def defaults(self, schema: FeatureSchema) -> Params:
        return {"C": 0.01}

    def space(self, schema: FeatureSchema) -> Space:
        return {"C": LogRange(1e-5, 10.0)}

    def fit(
        self, rows: Rows, y: NDArray[np.int8], params: Params, seed: int, columns: tuple[str, ...] | None = None
    ) -> Fitted:
        return fit_linear(self.name, rows, y, params, columns or self.columns(rows.schema))
