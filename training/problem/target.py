"""The quantity to forecast: realized volatility of the next minute, on a fixed grid of mids.

Point k of the grid is the time k * step since the epoch, and its mid is that of the last tick at or before it
("previous tick"). Sampling sparsely makes realized volatility independent of the tick rate and nearly free of the
bounce between bid and ask (L. Zhang, P. Mykland, Y. Aït-Sahalia, "A tale of two time scales: determining integrated
volatility with noisy high-frequency data", Journal of the American Statistical Association 100, 2005, section 1).
Hence ticks, mids at 1 Hz and polled quotes have the same target. The features of full/2 use the same grid
(pipeline/features/trailing.py).

The outcome of a row at time t begins at the first point at or after t, point b. It is the square root of the sum of
the squared log returns between the points b, b + 1, …, b + horizon / step. So it uses the ticks in force at the times
b * step to b * step + horizon, which lie in [t, t + step + horizon). The tick in force at point b is the row's own
tick or a later tick: no return that had begun before t is in the outcome.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NS_PER_S = 1_000_000_000
BPS = 1e4  # per log return


@dataclass(frozen=True, slots=True)
class Target:
    """Realized volatility over horizon_s, from mids every step_s. A volatility below floor_bps counts as floor_bps.

    Raises ValueError if the horizon is not a multiple of the step.
    """

    horizon_s: int = 60
    step_s: int = 5
    # Half a dollar, the smallest move of some venues, is 0.05 bps of 100,000: below it a market stands still.
    floor_bps: float = 0.05

    def __post_init__(self) -> None:
        if self.step_s <= 0 or self.horizon_s < self.step_s or self.horizon_s % self.step_s:
            raise ValueError(f"horizon of {self.horizon_s} s: expected a multiple of the step, {self.step_s} s")

    @property
    def returns(self) -> int:
        """Number of returns in an outcome."""
        return self.horizon_s // self.step_s

    @property
    def reach_ns(self) -> int:
        """An outcome at t uses no tick at or after t + reach_ns."""
        return (self.horizon_s + self.step_s) * NS_PER_S

    def outcomes_bps(self, time_ns: Ints, mid: Floats, segment: Ints) -> Floats:
        """The outcome of a row at each tick (n,), in bps and at least the floor; NaN where it is not known.

        time_ns, mid, segment: (n,). Ticks of an unbroken segment stand together, in time order. An outcome is known if
        the segment has a tick at or after the outcome's last point.
        """
        outcomes = np.full(len(time_ns), np.nan)
        for span in spans(segment):
            outcomes[span] = self._of_segment(time_ns[span], mid[span])
        return outcomes

    def _of_segment(self, time_ns: Ints, mid: Floats) -> Floats:
        step_ns = self.step_s * NS_PER_S
        first, last = _ceil(int(time_ns[0]), step_ns), int(time_ns[-1]) // step_ns
        outcomes = np.full(len(time_ns), np.nan)
        if last - first < self.returns:
            return outcomes
        points = np.arange(first, last + 1) * step_ns
        logs = np.log(mid[np.searchsorted(time_ns, points, side="right") - 1])
        squares = np.square(np.diff(logs))
        # Each window is summed afresh, so a market that stands still has a volatility of exactly zero.
        sums = np.lib.stride_tricks.sliding_window_view(squares, self.returns).sum(axis=1)
        begin = -(-time_ns // step_ns) - first
        known = begin < len(sums)
        outcomes[known] = np.maximum(np.sqrt(sums[begin[known]]) * BPS, self.floor_bps)
        return outcomes


def spans(segment: Ints) -> list[slice]:
    """The rows of each segment (n,), in order."""
    if not len(segment):
        return []
    edges = [0, *(np.flatnonzero(np.diff(segment)) + 1).tolist(), len(segment)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _ceil(time_ns: int, step_ns: int) -> int:
    return -(-time_ns // step_ns)


DEFAULT_TARGET = Target()
