"""Logistic regressions: the model, and the baselines it is compared with.

All are one form, standardize → logistic regression with an L2 penalty, over different inputs. Classes
are not weighted: what is wanted is the probability of a spike, and weights would inflate it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from training.inputs import OFFSETS, model_inputs
from training.rows import Rows


@dataclass(frozen=True, slots=True)
class Kind:
    """What a model looks at, (rows,) -> (rows, inputs), and the penalties (scikit-learn's C) to choose from."""

    inputs: Callable[[Rows], NDArray[np.float64]]
    strengths: tuple[float, ...] = (1.0,)


def _window_volatility(rows: Rows) -> NDArray[np.float64]:
    # Standardizing makes this the z-score of the window's volatility among the training rows.
    return rows.har[:, 2:]


def _log(volatility: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(volatility + OFFSETS["volatility"])


BASELINES = MappingProxyType(
    {
        "zscore": Kind(_window_volatility),
        "ewma": Kind(lambda rows: _log(rows.ewma[:, None])),
        "har_logit": Kind(lambda rows: _log(rows.har)),
    }
)
MODELS = MappingProxyType(
    {"logistic": Kind(lambda rows: model_inputs(rows.features), strengths=(0.001, 0.01, 0.1, 1.0, 10.0))}
)


@dataclass(frozen=True, slots=True)
class Fitted:
    kind: Kind
    pipeline: Any  # of scikit-learn, which ships no types

    def probabilities(self, rows: Rows) -> NDArray[np.float64]:
        """P(spike), shape (rows,)."""
        return np.asarray(self.pipeline.predict_proba(self.kind.inputs(rows))[:, 1], dtype=np.float64)

    def linear_form(self) -> tuple[NDArray[np.float64], float]:
        """Weights (inputs,) and bias with the standardization folded in: P = sigmoid(inputs · weights + bias)."""
        scaler, regression = self.pipeline[0], self.pipeline[1]
        weights = regression.coef_[0] / scaler.scale_
        return weights, float(regression.intercept_[0] - weights @ scaler.mean_)


def fit(kind: Kind, strength: float, rows: Rows, y: NDArray[np.int8]) -> Fitted:
    """Fits on (rows,) and labels of both classes."""
    # Newton's method converges to the last bits, so the same data gives the same bundle on any machine.
    regression = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-10, max_iter=200)
    pipeline: Pipeline = make_pipeline(StandardScaler(), regression)
    return Fitted(kind, pipeline.fit(kind.inputs(rows), y))
