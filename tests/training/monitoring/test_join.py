"""The join on columns: its outcomes are those of training, whatever the batches; each prediction is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.training.synthetic import START_NS, market
from training.monitoring.history import Growing
from training.monitoring.join import PERIOD_NS, Answer, Join, Joined
from training.problem.data.load import first_of_period
from training.problem.target import NS_PER_S, Target

TARGET = Target()
BTC, ETH = "BTC-USD", "ETH-USD"


@dataclass(frozen=True)
class Ticks:
    time_ns: NDArray[np.int64]
    mid: NDArray[np.float64]

    def answers(self, product: str = BTC, first: int = 0) -> list[Answer]:
        return [
            Answer(product, at, row, "volatility/1", row / len(self.time_ns), 0.5)
            for row, at in enumerate(self.time_ns.tolist())
            if row >= first
        ]

    def give(self, join: Join, start: int = 0, stop: int | None = None, product: str = BTC) -> None:
        of = slice(start, len(self.time_ns) if stop is None else stop)
        numbers = np.arange(len(self.time_ns))[of]
        if len(numbers):
            join.ticks(product, self.time_ns[of], numbers, self.mid[of], numbers[:, None].astype(np.float64))


def ticks(seconds: int = 300, seed: int = 3, per_s: int = 3) -> Ticks:
    return Ticks(*market(seconds, seed, per_s))


def outcomes_of(joined: Sequence[Joined]) -> dict[tuple[str, int], float]:
    return {
        (answer.product_id, answer.event_time_ns): value
        for part in joined
        for answer, value in zip(part.answers, part.outcome_bps.tolist(), strict=True)
    }


def offline(market_ticks: Ticks, product: str = BTC) -> dict[tuple[str, int], float]:
    """The rows that training keeps, and their outcomes."""
    times = market_ticks.time_ns
    outcomes = TARGET.outcomes_bps(times, market_ticks.mid, np.zeros(len(times), np.int64))
    usable = np.flatnonzero(~np.isnan(outcomes))
    kept = usable[first_of_period(np.zeros(len(usable), np.int64), times[usable], PERIOD_NS)]
    return {(product, int(times[row])): float(outcomes[row]) for row in kept}


@settings(max_examples=30)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=12), st.booleans())
def test_outcomes_and_thinning_are_those_of_training_bit_for_bit_whatever_the_batches(
    sizes: list[int], predictions_first: bool
) -> None:
    market_ticks, join, joined, done = ticks(), Join(TARGET, 1), [], 0
    answers = market_ticks.answers()
    while done < len(answers):
        size = sizes[done % len(sizes)]
        if predictions_first:
            join.predictions(answers[done : done + size])
        market_ticks.give(join, done, done + size)
        if not predictions_first:
            join.predictions(answers[done : done + size])
        joined.append(join.settle())
        done += size
    joined.append(join.finish())
    assert outcomes_of(joined) == offline(market_ticks)
    assert join.joined + sum(join.unjoined.values()) == len(answers)
    assert join.unjoined["no_tick"] == join.unjoined["repeated"] == join.waiting == 0


def at(*seconds: float) -> NDArray[np.int64]:
    return START_NS + (np.array(seconds) * NS_PER_S).astype(np.int64)


@pytest.mark.parametrize(("row_s", "last_point_s"), [(0.0, 60.0), (0.001, 65.0), (5.0, 65.0)])
def test_an_outcome_waits_for_a_tick_later_than_its_last_point(row_s: float, last_point_s: float) -> None:
    join = Join(TARGET, 1)
    times = at(row_s, 30, last_point_s, last_point_s, last_point_s + 0.001)
    market_ticks = Ticks(times, np.array([100.0, 101.0, 102.0, 103.0, 200.0]))
    join.predictions(market_ticks.answers()[:1])
    market_ticks.give(join, 0, 4)
    assert len(join.settle()) == 0, "another tick at the last point may come"
    market_ticks.give(join, 4)
    (outcome,) = join.settle().outcome_bps
    expected = 1e4 * np.sqrt(np.log(101 / 100) ** 2 + np.log(103 / 101) ** 2)
    assert outcome == pytest.approx(expected), "the last tick at a point counts"


def test_an_outcome_across_a_gap_is_unknown_and_an_outcome_before_it_is_known() -> None:
    market_ticks, join = ticks(), Join(TARGET, 1)
    join.predictions(market_ticks.answers())
    market_ticks.give(join, 0, 450)
    join.gap(BTC)
    market_ticks.give(join, 450)
    joined = [join.settle(), join.finish()]
    before, after = (Ticks(market_ticks.time_ns[of], market_ticks.mid[of]) for of in (slice(450), slice(450, None)))
    assert outcomes_of(joined) == offline(before) | offline(after)
    # The last ticks are at 149.7 and 299.7 s, so the last rows with an outcome are at 85 and 235 s.
    assert join.unjoined["gap"] == join.unjoined["past_end"] == 450 - 85 * 3 - 1


def test_products_do_not_mix() -> None:
    bitcoin, ether, join = ticks(seed=1), ticks(seed=2), Join(TARGET, 1)
    for start in range(0, 900, 100):
        bitcoin.give(join, start, start + 100, BTC)
        ether.give(join, start, start + 100, ETH)
    join.predictions(ether.answers(ETH))
    join.predictions(bitcoin.answers(BTC))
    assert outcomes_of([join.finish()]) == offline(bitcoin) | offline(ether, ETH)


def test_features_are_those_of_the_tick() -> None:
    market_ticks, join = ticks(), Join(TARGET, 1)
    market_ticks.give(join)
    join.predictions(market_ticks.answers())
    joined = join.finish()
    assert joined.features[:, 0].tolist() == [answer.sequence_num for answer in joined.answers]


def test_two_ticks_of_a_time_and_message_are_distinguished_by_their_order() -> None:
    times = at(0, 0, 61, 122)
    join = Join(TARGET, 1, period_ns=1)
    join.ticks(BTC, times, np.zeros(4, np.int64), np.array([1.0, 2, 3, 4]), np.arange(4.0)[:, None])
    join.predictions([Answer(BTC, START_NS, 0, "m/1", 0.1, 0.5), Answer(BTC, START_NS, 0, "m/1", 0.2, 0.5)])
    join.finish()
    assert join.unjoined["repeated"] == 0


def test_repeated_predictions_of_a_killed_worker_are_counted_and_not_joined_twice() -> None:
    market_ticks, join = ticks(), Join(TARGET, 1)
    answers = market_ticks.answers()
    market_ticks.give(join)
    join.predictions([*answers[:600], *answers[590:]])
    assert outcomes_of([join.settle(), join.finish()]) == offline(market_ticks)
    assert join.unjoined["repeated"] == 10


def test_a_prediction_of_a_tick_that_was_never_read_is_counted() -> None:
    market_ticks, join = ticks(), Join(TARGET, 1)
    market_ticks.give(join, 300)
    join.predictions(market_ticks.answers())
    join.predictions([Answer(ETH, 5, 5, "volatility/1", 0.5, 0.5)])
    read = Ticks(market_ticks.time_ns[300:], market_ticks.mid[300:])
    assert outcomes_of([join.settle(), join.finish()]) == offline(read)
    assert join.unjoined["no_tick"] == 301
    assert join.waiting == 0


def test_the_same_recording_replayed_again_is_joined_again() -> None:
    market_ticks, join = ticks(), Join(TARGET, 1)
    joined = []
    for _ in range(2):
        market_ticks.give(join)
        join.predictions(market_ticks.answers())
        joined.append(join.settle())
        join.gap(BTC)
    joined.append(join.finish())
    assert sum(map(len, joined)) == 2 * len(offline(market_ticks))
    assert outcomes_of(joined) == offline(market_ticks)


def test_memory_is_bounded_while_predictions_do_not_come() -> None:
    join, market_ticks = Join(TARGET, 1, max_ticks=1000), ticks(2000)
    for start in range(0, 6000, 100):
        market_ticks.give(join, start, start + 100)
        join.settle()
    assert join._ticks <= 1000
    join.predictions(market_ticks.answers())
    join.finish()
    assert join.joined + sum(join.unjoined.values()) == 6000
    assert join.unjoined["no_tick"] >= 5000


def test_memory_is_bounded_while_ticks_do_not_come() -> None:
    join = Join(TARGET, 1, max_waiting=100)
    join.predictions(ticks().answers())
    join.settle()
    assert join.waiting == 100
    assert join.unjoined["overflow"] == 800
    assert not join.wants_predictions


def test_what_is_joined_is_forgotten() -> None:
    join, market_ticks = Join(TARGET, 1), ticks(3600)
    answers = market_ticks.answers()
    for start in range(0, len(answers), 500):
        market_ticks.give(join, start, start + 500)
        join.predictions(answers[start : start + 500])
        join.settle()
    assert join._ticks < 1500, "three minutes at three ticks per second, and a batch"


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 700)), max_size=30))
def test_rows_that_grow_and_shrink_are_those_of_a_list(steps: list[tuple[int, int]]) -> None:
    growing, following = Growing(np.int64), 0
    expected: list[int] = []
    for added, dropped in steps:
        growing.add(np.arange(following, following + added))
        expected += range(following, following + added)
        following += added
        growing.drop(dropped)
        expected = expected[dropped:]
        assert growing.rows.tolist() == expected
