"""How sure one may be of a figure: whole blocks of time drawn again and again.

Neighbouring rows share most of their label window and volatility clusters, so rows are far from
independent evidence; blocks of time nearly are (Carlstein 1986, "The use of subseries values for
estimating the variance of a general statistic from a stationary sequence", Annals of Statistics 14;
Künsch 1989, "The jackknife and the bootstrap for general stationary observations", ibid. 17).
All products' rows of one time are in one block, since markets move together. Every model sees the same
draws, so that differences between models are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

# An interval is given where at least this share of the draws defines the metric (holds a spike, say).
DEFINED_SHARE = 0.8
MIN_BLOCK_S = 300.0  # volatility clusters for minutes, however short the windows
# Draws of every interval that decides. With 500 the ends of an interval move by 0.003 with the seed.
DECISION_RESAMPLES = 2000


def block_s(window_and_horizon_s: float) -> float:
    """Blocks at least as long as what one row's feature and label windows span together."""
    return max(MIN_BLOCK_S, float(window_and_horizon_s))


@dataclass(frozen=True, slots=True)
class Blocks:
    """The block of each row, (rows,), numbered from 0 without holes."""

    of_row: NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, time_ns: NDArray[np.int64], block_ns: int) -> Self:
        blocks, of_row = np.unique(time_ns // block_ns, return_inverse=True)
        return cls(of_row.astype(np.int64).reshape(-1), len(blocks))

    def draws(self, resamples: int, seed: int | list[int]) -> NDArray[np.float64]:
        """How often each block is drawn, (resamples, blocks): as many as there are, with replacement."""
        random = np.random.default_rng(seed)
        return random.multinomial(self.count, np.full(self.count, 1 / self.count), size=resamples).astype(np.float64)

    def once(self) -> NDArray[np.float64]:
        """Each block as it is, (1, blocks): what gives the value itself."""
        return np.ones((1, self.count))

    def sums(self, columns: NDArray[np.float64], of_row: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """(rows, k) added up by block, (blocks, k). of_row: other rows' blocks, where columns run along those."""
        block = self.of_row if of_row is None else of_row
        totals = np.empty((self.count, columns.shape[1]))
        for column in range(columns.shape[1]):
            totals[:, column] = np.bincount(block, weights=columns[:, column], minlength=self.count)
        return totals


def interval(samples: NDArray[np.float64]) -> tuple[float, float] | None:
    """The middle 95 % of (resamples,); None if too few draws define the metric (undefined: NaN)."""
    defined = samples[~np.isnan(samples)]
    if len(defined) == 0 or len(defined) < DEFINED_SHARE * len(samples):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def mean_of_defined(samples: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The mean of several (resamples,), draw by draw, over those that define it; NaN where none does."""
    stacked = np.stack(samples)
    defined = ~np.isnan(stacked)
    total, count = np.where(defined, stacked, 0.0).sum(axis=0), defined.sum(axis=0)
    mean: NDArray[np.float64] = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean
