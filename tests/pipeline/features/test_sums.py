"""Window sums against rational arithmetic: exact, reversible, rounded once."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numba import njit, types
from numpy.typing import NDArray

from pipeline.features import sums
from pipeline.features.columns import TickColumns
from pipeline.features.engine import FeatureEngine
from tests.pipeline.features.markets import walk
from tests.pipeline.features.oracle import log_return

TICKS = 10_000_000
CHUNK_TICKS = 500_000

# The least and the greatest square that two different positive floats can have.
SMALLEST = log_return(2.0, math.nextafter(2.0, 0.0)) ** 2
LARGEST = log_return(1.7976931348623157e308, 5e-324) ** 2

squares = st.lists(
    st.one_of(
        st.just(0.0),
        st.sampled_from([SMALLEST, LARGEST, 2.0**-106, 2.0**-64, 1.0, 1.0 - 2**-53, 1.0 + 2**-52, 2.0**21 - 2**-32]),
        st.floats(SMALLEST, LARGEST),
        st.floats(1e-16, 1e-8),
    ),
    max_size=40,
)


@njit([types.void(types.uint64[::1], types.float64[::1])])
def add_all(words: NDArray[np.uint64], values: NDArray[np.float64]) -> None:
    for value in values:
        sums.add(words, value)


@njit([types.void(types.uint64[::1], types.float64[::1])])
def subtract_all(words: NDArray[np.uint64], values: NDArray[np.float64]) -> None:
    for value in values:
        sums.subtract(words, value)


@njit([types.float64(types.uint64[::1])])
def total(words: NDArray[np.uint64]) -> Any:
    return sums.total(words)


def words_of(values: Sequence[float]) -> NDArray[np.uint64]:
    words = np.zeros(sums.WORDS, np.uint64)
    add_all(words, np.array(values, np.float64))
    return words


def exact(values: Sequence[float]) -> Fraction:
    return sum(map(Fraction, values), Fraction(0))


def as_fraction(words: NDArray[np.uint64]) -> Fraction:
    whole = sum((Fraction(int(word)) * 2 ** (64 * place) for place, word in enumerate(words)), Fraction(0))
    return whole * Fraction(2) ** sums.UNIT_EXPONENT


@given(squares)
@example([SMALLEST])
@example([LARGEST] * 40)
def test_words_hold_the_sum_without_rounding(values: list[float]) -> None:
    assert as_fraction(words_of(values)) == exact(values)


@given(squares)
@example([1.0, 2.0**-53])  # a tie, to even: down
@example([1.0 + 2.0**-52, 2.0**-53])  # a tie, to even: up
@example([1.0, 2.0**-53, 2.0**-106])  # just above a tie, by the last bit there is
@example([1.0, 2.0**-53, 2.0**-63])  # by the last bit of the leading 64
@example([1.0, 2.0**-53 - 2.0**-106, 2.0**-106 + 2.0**-158])  # by a bit of the lowest word alone
@example([2.0**-43])  # the lowest bit of a word alone
@example([2.0**-106] * 3)
@example([1.0 - 2**-53] * 2 + [2.0**-53])
def test_the_total_is_rounded_once(values: list[float]) -> None:
    assert total(words_of(values)) == float(exact(values)) == math.fsum(values)


@given(squares, squares)
def test_subtracting_undoes_adding_to_the_bit(values: list[float], others: list[float]) -> None:
    words = words_of([*others, *values])
    subtract_all(words, np.array(values, np.float64))
    assert words.tolist() == words_of(others).tolist()


@given(squares, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(values: list[float], random: Random) -> None:
    shuffled = random.sample(values, len(values))
    assert words_of(shuffled).tolist() == words_of(values).tolist()


def test_carries_and_borrows_run_through_all_words() -> None:
    words = np.array([2**64 - 1, 2**64 - 1, 2**64 - 1, 5], np.uint64)
    unit = np.array([2.0**-106])
    below = words.copy()
    add_all(words, unit)
    assert words[3] == 6
    assert words[2] == 0
    subtract_all(words, unit)
    assert words.tolist() == below.tolist()


def test_a_hundred_thousand_of_the_largest_moves_fit() -> None:
    count = 100_000
    assert total(words_of([LARGEST] * count)) == float(Fraction(LARGEST) * count)
    assert words_of([LARGEST] * count)[-1] < 2**62


@pytest.mark.slow
def test_no_drift_after_ten_million_ticks(capsys: pytest.CaptureFixture[str]) -> None:
    """Prices are a thousand times higher in every other stretch, so each of its edges is a square of 48
    among squares of 1e-14. A running float sum is off by 1e-4 after two of them (benchmarks/features.py).
    """
    engine = FeatureEngine()
    recent: deque[tuple[int, float]] = deque()
    end_ns, worst = 0, 0.0
    for part in range(TICKS // CHUNK_TICKS):
        ticks = _stretch(part, end_ns)
        end_ns = int(ticks.event_time_ns[-1]) + 1
        batch = engine.update(ticks)
        recent.extend(zip(ticks.event_time_ns[-40_000:].tolist(), batch.values[-40_000:, 1].tolist(), strict=True))
        while len(recent) > 40_000:
            recent.popleft()
        window = _squares(recent, end_ns - 1)
        want = math.sqrt(math.fsum(window))
        worst = max(worst, abs(batch.values[-1, 6] - want) / want)
    with capsys.disabled():
        print(f"\ndrift of volatility after {TICKS:,} ticks: {worst:.1e} relative, worst of {TICKS // CHUNK_TICKS}")
    assert worst < 1e-12


def _stretch(part: int, end_ns: int) -> TickColumns:
    ticks = walk(CHUNK_TICKS, ticks_per_s=500, seed=part)
    scale = 1000.0 if part % 2 else 1.0
    shift_ns = max(0, end_ns - int(ticks.event_time_ns[0]))
    return dataclasses.replace(
        ticks, event_time_ns=ticks.event_time_ns + shift_ns, bid=ticks.bid * scale, ask=ticks.ask * scale
    )


def _squares(recent: deque[tuple[int, float]], now_ns: int) -> list[float]:
    ticks = list(recent)
    assert ticks[0][0] <= now_ns - 60 * 10**9
    moves = ((at, log_return(mid, before)) for (_, before), (at, mid) in pairwise(ticks))
    return [move * move for at, move in moves if at > now_ns - 60 * 10**9]
