"""The estimators that kinds are made of. All are deterministic: the same rows and weights give the same result."""

from __future__ import annotations

import numpy as np

from training.forecasting.form import LEVELS
from training.problem.target import Floats

SCALE_STEPS = 10
SCALE_BEGIN = 0.02  # added to absolute residuals before the first logarithm
WEIGHT_DIGITS = 10  # rounding hides the last bits, which differ between processors
LEAST_PENALTY = 1e-12  # two features that are equal in all rows would have no solution
# Between neighbouring knots. A mass at the floor would make two quantiles of residuals equal, and F a step.
MIN_KNOT_DISTANCE = 1e-3


def ridge(units: Floats, y: Floats, weights: Floats, penalty: float) -> Floats:
    """Weighted least squares with a penalty on the weights of standardized units, (units + 1,): weights and bias.

    units: (n, units); y, weights: (n,). The bias is not penalized (A. Hoerl, R. Kennard, "Ridge regression", 1970).
    """
    share = weights / weights.sum()
    mean, centre = share @ units, share @ y
    centred = units - mean
    gram = (centred * share[:, None]).T @ centred
    # A unit that is constant in the training rows has weight 0.
    variance = np.diag(gram)
    gram = gram + np.diag(max(penalty, LEAST_PENALTY) * variance + (variance < 1e-12))
    slopes = np.linalg.solve(gram, (centred * share[:, None]).T @ (y - centre))
    return rounded(np.append(slopes, centre - slopes @ mean))


def log_scale(units: Floats, residuals: Floats, weights: Floats, penalty: float) -> Floats:
    """The scale of residuals as exp(linear), so that it is their mean absolute value; (units + 1,).

    Fisher scoring of the Laplace likelihood (P. McCullagh, J. Nelder, "Generalized linear models", 1989, section 10.2:
    joint modelling of mean and dispersion, with a log link).
    """
    sizes = np.abs(residuals)
    linear = ridge(units, np.log(sizes + SCALE_BEGIN), weights, penalty)
    for _ in range(SCALE_STEPS):
        ratios = sizes / np.exp(units @ linear[:-1] + linear[-1])
        linear = linear + ridge(units, ratios - 1.0, weights, penalty)
    return rounded(linear)


def weighted_quantiles(values: Floats, weights: Floats, levels: Floats) -> Floats:
    """Quantiles of values (n,) with weights (n,) at levels (L,), (L,)."""
    order = np.argsort(values, kind="stable")
    share = weights[order] / weights.sum()
    return np.interp(levels, np.cumsum(share) - share / 2, values[order])


def knots(scaled: Floats, weights: Floats) -> Floats:
    """Weighted quantiles of scaled residuals (n,), whose median is 0, at LEVELS: strictly ascending, (K,)."""
    quantiles = weighted_quantiles(scaled, weights, LEVELS)
    middle = int(np.flatnonzero(LEVELS == 0.5)[0])
    steps = (np.arange(len(quantiles)) - middle) * MIN_KNOT_DISTANCE
    below = np.minimum.accumulate((quantiles - steps)[middle::-1])[::-1] + steps[: middle + 1]
    above = np.maximum.accumulate((quantiles - steps)[middle:]) + steps[middle:]
    ascending = np.concatenate([below[:-1], [0.0], above[1:]])
    return rounded(ascending)


def rounded(values: Floats) -> Floats:
    """Weights (n,) to WEIGHT_DIGITS."""
    return np.array([float(f"{value:.{WEIGHT_DIGITS}g}") for value in values.tolist()])
