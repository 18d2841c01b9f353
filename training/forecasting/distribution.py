"""The distribution that a model forecasts for each row: a location and a scale of log volatility.

Volatility is in basis points over the horizon. Its logarithm is location + scale * Z, where the distribution of Z is
common to all rows: F(z) is piecewise linear through the knots (z_k, p_k), the quantiles of scaled residuals. A
volatility below the floor counts as the floor, so a forecast has a probability mass at the floor if the market stands
still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TAIL = 30.0  # in scales
# A log return of 100. Rows unlike any market would have infinite quantiles, which JSON cannot carry.
CEILING_BPS = 1e6


class Forecasts(Protocol):
    """Forecast distributions of n rows. Volatility is in bps over the horizon."""

    def quantiles_bps(self, levels: Floats) -> Floats:
        """The quantiles at levels (L,) in (0, 1) of each row, (n, L)."""
        ...

    def exceedance(self, size_bps: float | Floats) -> Floats:
        """P(volatility >= size) of each row, (n,). size_bps: positive; a number, or a size for each row (n,)."""
        ...

    def median_bps(self) -> Floats:
        """The median of each row, (n,)."""
        ...


@dataclass(frozen=True, slots=True)
class LocationScale:
    """Forecasts of n rows that share the distribution of their scaled residual.

    location, scale: (n,), of the logarithm of the volatility in bps; scale is positive.
    levels, knots: (K,), ascending; knots[k] is the residual's quantile at levels[k]. Quantiles stay within the knots
    and are at most CEILING_BPS. Beyond the knots, F is linear and reaches 0 and 1 only at a distance of TAIL: no spike
    size above the floor is certain or impossible.
    floor_bps: positive.
    """

    location: Floats
    scale: Floats
    levels: Floats
    knots: Floats
    floor_bps: float

    def __len__(self) -> int:
        return len(self.location)

    def quantiles_bps(self, levels: Floats) -> Floats:
        knots = np.interp(levels, self.levels, self.knots)
        log_quantiles = self.location[:, None] + self.scale[:, None] * knots[None, :]
        with np.errstate(over="ignore"):  # infinite, and then the ceiling
            return np.asarray(np.clip(np.exp(log_quantiles), self.floor_bps, CEILING_BPS), dtype=np.float64)

    def exceedance(self, size_bps: float | Floats) -> Floats:
        scaled = (np.log(size_bps) - self.location) / self.scale
        levels, knots = with_tails(self.levels, self.knots)
        above = 1.0 - np.interp(scaled, knots, levels)
        return np.asarray(np.where(np.less_equal(size_bps, self.floor_bps), 1.0, above), dtype=np.float64)

    def median_bps(self) -> Floats:
        return self.quantiles_bps(np.array([0.5]))[:, 0]


def with_tails(levels: Floats, knots: Floats) -> tuple[Floats, Floats]:
    """Levels and knots (K,) with the points at which F reaches 0 and 1, (K + 2,)."""
    return (
        np.concatenate([[0.0], levels, [1.0]]),
        np.concatenate([[knots[0] - TAIL], knots, [knots[-1] + TAIL]]),
    )
