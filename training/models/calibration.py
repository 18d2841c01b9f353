"""Probabilities that mean what they say: slope · logit + intercept, fitted on rows that no fit has seen.

Platt 1999, "Probabilistic outputs for support vector machines", with the model's logit as the score; with
a slope of 1 and an intercept of 0 it changes nothing. Of the usual forms it is the one that goes into any
graph without a loss (isotonic regression does not: its steps move in the conversion,
docs/decisions/0012).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.bundle import Calibration
from training.models.base import IDENTITY, sigmoid

# What the belief in "nothing to correct" weighs, in rows. Rows of one minute say almost the same, so ten
# minutes of spikes at one row a second are 600 rows and few observations.
PRIOR_ROWS = 50.0
MINIMUM_SLOPE = 0.1  # a slope of 0 or below would turn the order of the rows around
HELPS = 1e-3  # share of the log loss that a correction must take away
DIGITS = 6
TOLERANCE = 1e-9


def fit_calibration(logit: NDArray[np.float64], y: NDArray[np.int8]) -> Calibration:
    """The slope and intercept with the lowest log loss on (rows,), drawn to 1 and 0 by PRIOR_ROWS.

    IDENTITY where the rows hold one class.
    """
    if len(y) == 0 or y.min() == y.max():
        return IDENTITY
    slope, intercept = _newton(logit, y, free_slope=True, slope=1.0)
    if slope < MINIMUM_SLOPE:
        slope, intercept = _newton(logit, y, free_slope=False, slope=MINIMUM_SLOPE)
    return Calibration(round(slope, DIGITS), round(intercept, DIGITS))


def calibrate(logits: Sequence[NDArray[np.float64]], labelled: Sequence[NDArray[np.int8]]) -> Calibration:
    """A correction fitted on all validation folds, where it has held; IDENTITY elsewhere.

    logits, labelled: of the folds, one after the other in time. A fold's error may be of its own days: models that
    were fitted before a crash are corrected for it, and the one that has seen it then twice. So the correction of
    the folds before is tried on each fold, and is believed only where it lowered the log loss every time. Folds of
    one class are no trial.
    """
    tried = False
    for number in range(1, len(logits)):
        y = labelled[number]
        if y.min() == y.max():
            continue
        before = fit_calibration(np.concatenate(logits[:number]), np.concatenate(labelled[:number]))
        if _log_loss(before, logits[number], y) >= (1 - HELPS) * _log_loss(IDENTITY, logits[number], y):
            return IDENTITY
        tried = True
    return fit_calibration(np.concatenate(logits), np.concatenate(labelled)) if tried else IDENTITY


def _log_loss(calibration: Calibration, logit: NDArray[np.float64], y: NDArray[np.int8]) -> float:
    moved = calibration.slope * logit + calibration.intercept
    return float(np.mean(np.logaddexp(0.0, moved) - y * moved))


def _newton(logit: NDArray[np.float64], y: NDArray[np.int8], *, free_slope: bool, slope: float) -> tuple[float, float]:
    """Newton's method; a step that raises the loss is halved: far from the answer the curvature misleads."""
    inputs = np.column_stack([logit, np.ones_like(logit)])
    start = np.array([1.0, 0.0])
    weight = np.array([slope, 0.0])

    def loss(at: NDArray[np.float64]) -> float:
        moved = inputs @ at
        prior = PRIOR_ROWS / 2 * float(np.sum(np.square(at - start)))
        return float(np.sum(np.logaddexp(0.0, moved) - y * moved)) + prior

    now = loss(weight)
    for _ in range(100):
        p = sigmoid(inputs @ weight)
        gradient = inputs.T @ (p - y) + PRIOR_ROWS * (weight - start)
        curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + PRIOR_ROWS * np.eye(2)
        if not free_slope:
            gradient[0] = 0.0
            curvature[0, 1] = curvature[1, 0] = 0.0
        step = np.linalg.solve(curvature, gradient)
        while (then := loss(weight - step)) > now and np.max(np.abs(step)) > TOLERANCE:
            step = step / 2
        if np.max(np.abs(step)) <= TOLERANCE:
            break
        weight, now = weight - step, then
    return float(weight[0]), float(weight[1])
