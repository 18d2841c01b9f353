"""Ticks as columns, cut into unbroken stretches: what labels and baselines are computed from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class TickSeries:
    """Accepted ticks, one entry a tick, segment after segment.

    A segment is a stretch of one product's ticks with no gap in it. Its ticks stand together and in
    time order (equal times are allowed). All arrays have shape (ticks,).
    """

    time_ns: NDArray[np.int64]
    mid: NDArray[np.float64]
    segment: NDArray[np.int64]

    def __post_init__(self) -> None:
        same_segment = np.diff(self.segment) == 0
        if np.any(np.diff(self.time_ns)[same_segment] < 0):
            raise ValueError("ticks of a segment must be in time order")
        if len(np.unique(self.segment)) != np.count_nonzero(~same_segment) + (len(self.segment) > 0):
            raise ValueError("ticks of a segment must stand together")

    def __len__(self) -> int:
        return len(self.time_ns)

    def spans(self) -> Iterator[slice]:
        """The rows of each segment, in order."""
        edges = [0, *(np.flatnonzero(np.diff(self.segment)) + 1).tolist(), len(self)]
        for start, stop in itertools.pairwise(edges):
            if stop > start:
                yield slice(start, stop)

    def squared_returns(self, span: slice) -> NDArray[np.float64]:
        """Squared tick-to-tick log-mid returns of a segment; the first tick has none, so 0."""
        returns = np.diff(np.log(self.mid[span]), prepend=np.log(self.mid[span.start]))
        return np.square(returns)
