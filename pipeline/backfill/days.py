"""The ticks that a day of a product needs.

A row depends on the unbroken history (from the last gap on), and of that only on the last tick used at or before
t - reach_ns, and the ticks since (engine.reach_ns). So an engine that starts there gives the
day the bits of an engine that never stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.features.columns import GAP

DAY_NS = 86_400 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Stretch:
    """Records `start`…`stop` of a product's stream are of one UTC day; an engine begins at `first`."""

    day: int  # since 1970-01-01
    first: int
    start: int
    stop: int


def stretches(kind: NDArray[np.uint8], event_time_ns: NDArray[np.int64], reach_ns: int) -> list[Stretch]:
    """The days of one product's records (n,), in the order of the stream; each record is in one stretch.

    A late tick belongs to the day of the tick before it, a gap to that of the tick after it. If a clock jumps
    back, a day has several stretches.
    """
    ticks = np.flatnonzero(kind != GAP)
    if not len(ticks):
        return []
    latest_ns = _latest_ns(kind, event_time_ns)
    day_of_tick = latest_ns[ticks] // DAY_NS
    # Of each record, the tick at or after it, or else the last tick.
    following = np.minimum(np.searchsorted(ticks, np.arange(len(kind))), len(ticks) - 1)
    day = day_of_tick[following]
    starts = [0, *(np.flatnonzero(np.diff(day)) + 1).tolist(), len(day)]
    gaps = np.flatnonzero(kind == GAP)
    return [
        Stretch(int(day[start]), _first(start, gaps, event_time_ns, latest_ns, reach_ns), start, stop)
        for start, stop in pairwise(starts)
    ]


def _latest_ns(kind: NDArray[np.uint8], event_time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The latest time of the unbroken history up to each record (n,). The engine uses a tick that has just this
    time, and refuses an older tick.
    """
    latest = event_time_ns.copy()
    edges = [0, *np.flatnonzero(kind == GAP).tolist(), len(kind)]
    for gap, stop in pairwise(edges):
        begin = gap + int(kind[gap] == GAP)
        np.maximum.accumulate(event_time_ns[begin:stop], out=latest[begin:stop])
    return latest


def _first(
    start: int,
    gaps: NDArray[np.int64],
    event_time_ns: NDArray[np.int64],
    latest_ns: NDArray[np.int64],
    reach_ns: int,
) -> int:
    """Where an engine begins for rows from `start` on."""
    before = int(np.searchsorted(gaps, start, "right"))
    begin = int(gaps[before - 1]) + 1 if before else 0
    if begin > start:  # a gap stands at `start`
        return start
    limit_ns = int(latest_ns[start]) - reach_ns
    reached = begin + int(np.searchsorted(latest_ns[begin:start], limit_ns, "right"))
    used = np.flatnonzero(event_time_ns[begin:reached] == latest_ns[begin:reached])
    return begin + int(used[-1]) if len(used) else begin
