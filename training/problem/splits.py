"""Splits that follow time, with nothing of a test part known to its training part.

A label looks forward and a feature looks back, so rows near a border overlap although their times do
not. Two cuts are made at the end of each training part, after López de Prado 2018, "Advances in
Financial Machine Learning", chapter 7:

- purge: rows whose label window (t, t + horizon] reaches into the test part;
- embargo: rows less than the longest feature window + horizon before it, so that no training label
  is computed from ticks that a test row's features are computed from as well.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers of a training part and of the test part that follows it."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    purged: int
    embargoed: int


@dataclass(frozen=True, slots=True)
class SplitRules:
    horizon_ns: int
    window_ns: int  # the longest feature window
    final_share: float
    folds: int

    @property
    def embargo_ns(self) -> int:
        return self.window_ns + self.horizon_ns


def split_at(time_ns: NDArray[np.int64], start_ns: int, stop_ns: int, rules: SplitRules) -> Split:
    """Tests on the rows in [start_ns, stop_ns), trains on those before it that survive both cuts."""
    before = time_ns < start_ns
    reaches_in = before & (time_ns + rules.horizon_ns >= start_ns)
    # A row exactly an embargo away still shares the tick at which both windows meet.
    too_near = before & ~reaches_in & (time_ns + rules.embargo_ns >= start_ns)
    return Split(
        train=np.flatnonzero(before & ~reaches_in & ~too_near),
        test=np.flatnonzero((time_ns >= start_ns) & (time_ns < stop_ns)),
        purged=int(np.count_nonzero(reaches_in)),
        embargoed=int(np.count_nonzero(too_near)),
    )


def final_split(time_ns: NDArray[np.int64], rules: SplitRules) -> Split:
    """Sets the last share of the rows apart. time_ns: (rows,) in time order.

    With at most one row a second, a share of the rows is a share of the time that was recorded;
    the hours between recordings do not count.
    """
    start = _border(time_ns, 1.0 - rules.final_share)
    return split_at(time_ns, start, int(time_ns[-1]) + 1, rules)


def walk_forward(time_ns: NDArray[np.int64], rules: SplitRules) -> list[Split]:
    """Folds over (rows,) in time order: each trains on all that came before and tests on the next block."""
    blocks = rules.folds + 1
    borders = [_border(time_ns, block / blocks) for block in range(1, blocks)]
    borders.append(int(time_ns[-1]) + 1)
    return [split_at(time_ns, start, stop, rules) for start, stop in itertools.pairwise(borders)]


def _border(time_ns: NDArray[np.int64], share: float) -> int:
    """The time at which a share of the rows has passed; rows of one time stay on one side of it."""
    if len(time_ns) < 2:
        raise InputError(f"too little data: {len(time_ns)} usable rows, nothing to split")
    return int(time_ns[min(int(share * len(time_ns)), len(time_ns) - 1)])
