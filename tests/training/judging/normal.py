"""Forecasts with closed forms: log volatility is normal, and a volatility below the floor counts as the floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]
FLOOR_BPS = 0.05


@dataclass(frozen=True, slots=True)
class LogNormal:
    """location, scale: (n,), of the logarithm of the volatility in bps."""

    location: Floats
    scale: Floats
    floor_bps: float = FLOOR_BPS

    def quantiles_bps(self, levels: Floats) -> Floats:
        log_quantiles = self.location[:, None] + self.scale[:, None] * norm.ppf(levels)[None, :]
        return np.asarray(np.maximum(np.exp(log_quantiles), self.floor_bps), dtype=np.float64)

    def exceedance(self, size_bps: float | Floats) -> Floats:
        above = norm.sf((np.log(size_bps) - self.location) / self.scale)
        return np.where(np.less_equal(size_bps, self.floor_bps), 1.0, above)

    def median_bps(self) -> Floats:
        return self.quantiles_bps(np.array([0.5]))[:, 0]

    def outcomes_bps(self, seed: int) -> Floats:
        """A volatility drawn from each row's forecast, (n,)."""
        draws = self.location + self.scale * np.random.default_rng(seed).normal(size=len(self.location))
        return np.maximum(np.exp(draws), self.floor_bps)


def crps_of_normal(outcome: Floats, location: Floats, scale: Floats) -> Floats:
    """T. Gneiting, A. Raftery, "Strictly proper scoring rules, prediction, and estimation", 2007, equation 21."""
    z = (outcome - location) / scale
    return np.asarray(scale * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)), dtype=np.float64)


def lively(rows: int, seed: int) -> LogNormal:
    """Forecasts far above the floor."""
    random = np.random.default_rng(seed)
    return LogNormal(random.normal(1.0, 0.5, rows), random.uniform(0.2, 0.8, rows))
