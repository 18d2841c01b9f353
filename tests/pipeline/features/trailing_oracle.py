"""What full/2 adds to full/1, by brute force: for each tick, the whole grid is made anew from the ticks before it.

It shares nothing with the engine but the definitions, which are written out here a second time.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from common.schema import FULL_1, FULL_2
from pipeline.records import Tick
from tests.pipeline.features.oracle import log_return, mid_of

NAMES = FULL_2.names[len(FULL_1) :]
STEP_NS = 5_000_000_000
FLOOR = 5e-6


def last_row(ticks: Sequence[Tick]) -> NDArray[np.float64]:
    """(11,): the row of the last of a product's ticks since a gap, each of which is used."""
    times = [tick.event_time_ns for tick in ticks]
    now_ns = times[-1]
    first = -(-times[0] // STEP_NS)  # at or after the first tick
    last = -(-now_ns // STEP_NS) - 1  # before the last tick
    mids = [mid_of(ticks[bisect_right(times, point * STEP_NS) - 1]) for point in range(first, last + 1)]
    moves = [log_return(after, before) for before, after in pairwise(mids)]
    references = [_reference(moves[: count + 1]) for count in range(len(moves))]
    errors, still = [], []
    for count in range(12, len(moves)):
        minute = math.sqrt(math.fsum(move * move for move in moves[count - 11 : count + 1]))
        error = math.log(max(minute, FLOOR)) - references[count - 12]
        errors.append(min(max(error, -3.0), 3.0))
        still.append(minute < 2 * FLOOR)
    errors, still = errors[-720:], still[-720:]
    weight = len(errors) + 60
    minute_moves = [abs(move) for move in moves[-12:]]
    return np.array(
        [
            *(_volatility(moves, points) for points in (6, 12, 60, 360)),
            math.sqrt(12 * _mean_of_hour(moves)),
            max(minute_moves, default=0.0),
            math.fsum(minute_moves) / 12,
            math.fsum(errors) / weight,
            (math.fsum(map(abs, errors)) + 60 * 0.5) / weight,
            (sum(still) + 60 * 0.05) / weight,
            5.0 * min(len(moves), 720),
        ]
    )


def _mean_of_hour(moves: Sequence[float]) -> float:
    """The mean squared return of the hour, shrunk to 3 bps a minute with the weight of twelve returns."""
    hour = moves[-720:]
    return (math.fsum(move * move for move in hour) + 12 * (0.0003**2 / 12)) / (len(hour) + 12)


def _volatility(moves: Sequence[float], points: int) -> float:
    """Per minute; returns that are missing, and another, are as large as the hour's mean."""
    known = moves[-points:]
    extra = points - len(known) + 1
    total = math.fsum(move * move for move in known) + extra * _mean_of_hour(moves)
    return math.sqrt(12 * total / (points + 1))


def _reference(moves: Sequence[float]) -> float:
    windows = ((12, 0.3), (60, 0.3), (360, 0.4))
    return math.fsum(weight * math.log(max(_volatility(moves, points), FLOOR)) for points, weight in windows)
