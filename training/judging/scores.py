"""Scores of each row's forecast distribution; smaller is better.

CRPS decides. It is taken on log volatility: an error of a factor of two costs as much in a quiet night as in a crash.
In basis points a few violent hours would decide for all rows (N. Bosse et al., "Scoring epidemiological forecasts on
transformed scales", PLoS Computational Biology 19, 2023). The logarithm is monotone, so the score stays proper. CRPS
in basis points is reported next to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from training.forecasting.distribution import Forecasts

Floats = NDArray[np.float64]

CRPS_LEVELS: Floats = (np.arange(100) + 0.5) / 100
PINBALL_LEVELS: Floats = np.array([0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975])  # median; ends of 50, 80, 95 %
# Forecasts give quantiles of all rows at once: with 350,000 rows, 8 levels take 22 MB.
LEVELS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class RowScores:
    """Scores of n rows, each (n,); pinball_log is (n, levels).

    pit_low, pit_high: P(volatility < outcome) and P(volatility <= outcome). They differ only at the floor, where the
    forecast has a probability mass.
    """

    crps_log: Floats
    crps_bps: Floats
    qlike: Floats
    pinball_log: Floats
    pit_low: Floats
    pit_high: Floats


def row_scores(
    forecasts: Forecasts, outcome_bps: Floats, floor_bps: float, levels: Floats = PINBALL_LEVELS
) -> RowScores:
    """Every score of every row. outcome_bps: (n,), at least floor_bps. levels: of the pinball loss.

    Raises InputError if an outcome is below the floor or not finite.
    """
    _require_outcomes(outcome_bps, floor_bps)
    log_outcome = np.log(outcome_bps)
    crps_log, crps_bps, variance = np.zeros((3, len(outcome_bps)))
    for some, quantiles in _quantiles(forecasts, CRPS_LEVELS):
        crps_log += pinball(log_outcome, np.log(quantiles), some).sum(axis=1)
        crps_bps += pinball(outcome_bps, quantiles, some).sum(axis=1)
        variance += np.square(quantiles).sum(axis=1)
    count = len(CRPS_LEVELS)
    low, high = pit_bounds(forecasts, outcome_bps, floor_bps)
    return RowScores(
        crps_log=2 * crps_log / count,
        crps_bps=2 * crps_bps / count,
        qlike=qlike(np.square(outcome_bps), variance / count),
        pinball_log=pinball(log_outcome, np.log(forecasts.quantiles_bps(levels)), levels),
        pit_low=low,
        pit_high=high,
    )


def crps_log(forecasts: Forecasts, outcome_bps: Floats) -> Floats:
    """CRPS on log volatility of each row, (n,): twice the integral of the pinball loss over all levels.

    T. Gneiting, R. Ranjan, "Comparing density forecasts using threshold- and quantile-weighted scoring rules", Journal
    of Business & Economic Statistics 29, 2011, equation 9. The integral is the mean over CRPS_LEVELS (midpoint rule).
    """
    log_outcome = np.log(outcome_bps)
    total = np.zeros(len(outcome_bps))
    for some, quantiles in _quantiles(forecasts, CRPS_LEVELS):
        total += pinball(log_outcome, np.log(quantiles), some).sum(axis=1)
    return 2 * total / len(CRPS_LEVELS)


def pinball(outcome: Floats, quantiles: Floats, levels: Floats) -> Floats:
    """The pinball loss, (n, levels): level * excess above a quantile, (1 - level) * excess below it.

    outcome: (n,); quantiles: (n, levels), in the outcome's unit. R. Koenker, G. Bassett, "Regression quantiles",
    Econometrica 46, 1978.
    """
    excess = outcome[:, None] - quantiles
    return np.maximum(levels * excess, (levels - 1) * excess)


def qlike(outcome_variance: Floats, forecast_variance: Floats) -> Floats:
    """QLIKE of each row, (n,): r - log(r) - 1, where r is outcome over forecast. 0 if they are equal.

    A. Patton, "Volatility forecast comparison using imperfect volatility proxies", Journal of Econometrics 160, 2011,
    equation 24. Its best forecast is the mean of the variance; the median would be scored as too low. Both arrays are
    (n,) and positive.
    """
    ratio = outcome_variance / forecast_variance
    return np.asarray(ratio - np.log(ratio) - 1, dtype=np.float64)


def pit_bounds(forecasts: Forecasts, outcome_bps: Floats, floor_bps: float) -> tuple[Floats, Floats]:
    """P(volatility < outcome) and P(volatility <= outcome) of each row, both (n,)."""
    low = 1 - forecasts.exceedance(outcome_bps)
    # Above the floor the distribution is continuous; at the floor, P(volatility <= floor) is its mass there.
    just_above = np.where(outcome_bps <= floor_bps, np.nextafter(floor_bps, np.inf), outcome_bps)
    return low, 1 - forecasts.exceedance(just_above)


def randomized_pit(low: Floats, high: Floats, seed: int) -> Floats:
    """The probability integral transform, (n,): uniform on (0, 1) if the forecasts are calibrated.

    At the floor's mass it is drawn uniformly between the bounds (C. Czado, T. Gneiting, L. Held, "Predictive model
    assessment for count data", Biometrics 65, 2009, section 2.1).
    """
    return np.asarray(low + np.random.default_rng(seed).random(len(low)) * (high - low), dtype=np.float64)


def covered(low: Floats, high: Floats, coverage: float) -> Floats:
    """Whether the central interval covers the outcome of each row, (n,): 0 or 1, at the floor a share.

    An interval that begins at the floor would cover each outcome at the floor, so a calibrated forecast would cover
    more than it claims. At the floor the result is therefore the expected share of randomized_pit within the interval.
    """
    lower, upper = (1 - coverage) / 2, (1 + coverage) / 2
    inside = ((low >= lower) & (low <= upper)).astype(np.float64)
    mass = high - low
    overlap = np.clip(np.minimum(high, upper) - np.maximum(low, lower), 0, None)
    np.divide(overlap, mass, out=inside, where=mass > 0)
    return inside


def _quantiles(forecasts: Forecasts, levels: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Levels and their quantiles, a few at a time: (levels,) and (n, levels)."""
    for first in range(0, len(levels), LEVELS_AT_ONCE):
        some = levels[first : first + LEVELS_AT_ONCE]
        yield some, forecasts.quantiles_bps(some)


def _require_outcomes(outcome_bps: Floats, floor_bps: float) -> None:
    if not np.isfinite(outcome_bps).all() or np.any(outcome_bps < floor_bps):
        raise InputError(f"outcome_bps: expected finite values of at least the floor, {floor_bps:g} bps")
