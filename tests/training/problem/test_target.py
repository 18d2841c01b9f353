"""The outcome of a row: realized volatility on a fixed grid after it."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from training.problem.target import NS_PER_S, Target

TARGET = Target()
Walk = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]


def brute_force(time_ns: list[int], mid: list[float], segment: list[int], row: int, target: Target) -> float:
    """The definition, with exact integers and a loop."""
    step = target.step_s * NS_PER_S
    own = [tick for tick in range(len(mid)) if segment[tick] == segment[row]]
    begin = -(-time_ns[row] // step)
    points = range(begin, begin + target.horizon_s // target.step_s + 1)
    if time_ns[own[-1]] < points[-1] * step:
        return math.nan
    mids = [mid[max(tick for tick in own if time_ns[tick] <= point * step)] for point in points]
    squares = [math.log(after / before) ** 2 for before, after in itertools.pairwise(mids)]
    return max(math.sqrt(math.fsum(squares)) * 1e4, target.floor_bps)


def walk(seed: int, ticks: int, seconds_apart: float, segments: int = 3) -> Walk:
    random = np.random.default_rng(seed)
    time_ns = np.cumsum(1 + (random.exponential(seconds_apart, ticks) * NS_PER_S).astype(np.int64))
    on_grid = random.random(ticks) < 0.2  # times at points of the grid
    time_ns = np.sort(np.where(on_grid, time_ns // (5 * NS_PER_S) * 5 * NS_PER_S, time_ns))
    moves = random.normal(scale=1e-4, size=ticks) * (random.random(ticks) < 0.5)
    segment = np.sort(random.integers(0, segments, ticks))
    return time_ns, np.round(60_000 * np.exp(np.cumsum(moves)), 2), segment


@pytest.mark.parametrize(("seconds_apart", "ticks"), [(0.2, 1200), (1.0, 400), (5.1, 150)])
@pytest.mark.parametrize("target", [TARGET, Target(horizon_s=30, step_s=10, floor_bps=0.5)])
def test_the_outcome_equals_its_definition(seconds_apart: float, ticks: int, target: Target) -> None:
    time_ns, mid, segment = walk(3, ticks, seconds_apart)
    outcomes = target.outcomes_bps(time_ns, mid, segment)
    columns = time_ns.tolist(), mid.tolist(), segment.tolist()
    expected = [brute_force(*columns, row, target) for row in range(0, ticks, 7)]
    assert outcomes[::7] == pytest.approx(expected, rel=1e-9, nan_ok=True)
    assert 0 < np.count_nonzero(np.isnan(outcomes)) < ticks


def rows_changed_by(tick: int, given: Walk) -> NDArray[np.int64]:
    """The rows whose outcome depends on the mid of a tick."""
    time_ns, mid, segment = given
    changed = mid.copy()
    changed[tick] *= 1.5
    before, after = (TARGET.outcomes_bps(time_ns, each, segment) for each in (mid, changed))
    assert np.array_equal(np.isnan(before), np.isnan(after))
    return np.flatnonzero((before != after) & ~np.isnan(before))


def test_an_outcome_uses_no_tick_before_the_row_and_no_tick_beyond_the_reach() -> None:
    given = walk(5, 400, 1.0, segments=1)
    time_ns = given[0]
    seen = 0
    for tick in range(0, 400, 3):
        for row in rows_changed_by(tick, given):
            seen += 1
            assert time_ns[row] <= time_ns[tick] < time_ns[row] + TARGET.reach_ns
    assert seen > 1000


def test_a_return_that_began_before_the_row_is_not_in_its_outcome() -> None:
    seconds = np.arange(0, 80)
    mid = np.where(seconds <= 7, 100.0, 101.0)  # the mid moves between 7 and 8 s
    outcomes = TARGET.outcomes_bps(seconds * NS_PER_S, mid, np.zeros(80, np.int64))
    jump = math.log(1.01) * 1e4
    assert outcomes[5] == pytest.approx(jump)  # at a point: the return from 5 s to 10 s is the first
    assert outcomes[6] == TARGET.floor_bps  # the return to 10 s begins at 5 s, before the row


def test_the_last_point_may_be_the_last_tick() -> None:
    seconds = np.arange(0, 66)
    outcomes = TARGET.outcomes_bps(seconds * NS_PER_S, np.full(66, 100.0), np.zeros(66, np.int64))
    assert np.flatnonzero(~np.isnan(outcomes)).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_segment_shorter_than_an_outcome_has_no_outcome() -> None:
    seconds = np.arange(1, 64)
    outcomes = TARGET.outcomes_bps(seconds * NS_PER_S, np.full(63, 100.0), np.zeros(63, np.int64))
    assert np.isnan(outcomes).all()


def test_no_outcome_spans_two_segments() -> None:
    time_ns, mid, segment = walk(7, 900, 1.0, segments=2)
    later = segment == 1
    moved = np.where(later, mid * 2, mid)
    before, after = (TARGET.outcomes_bps(time_ns, each, segment) for each in (mid, moved))
    assert before == pytest.approx(after, rel=1e-9, nan_ok=True)


def test_a_market_that_stands_still_is_at_the_floor() -> None:
    seconds = np.arange(0, 200)
    mid = np.where(seconds < 50, 60_000 + seconds, 60_050.0)
    outcomes = TARGET.outcomes_bps(seconds * NS_PER_S, mid, np.zeros(200, np.int64))
    assert (outcomes[50:130] == TARGET.floor_bps).all()


def test_no_tick_has_no_outcome() -> None:
    empty = np.zeros(0, np.int64)
    assert len(TARGET.outcomes_bps(empty, np.zeros(0), empty)) == 0


@pytest.mark.parametrize(("horizon_s", "step_s"), [(60, 7), (4, 5), (60, 0)])
def test_a_horizon_is_a_multiple_of_the_step(horizon_s: int, step_s: int) -> None:
    with pytest.raises(ValueError, match="expected a multiple of the step"):
        Target(horizon_s=horizon_s, step_s=step_s)
