"""The join on columns: its truth is the label's, whatever the batches, and nothing is lost without a count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.training.synthetic import market, series
from training.monitoring.history import Growing
from training.monitoring.join import PERIOD_NS, Join, Joined, Said
from training.problem.labels import future_volatility
from training.problem.sampling import first_of_each
from training.problem.ticks import NS_PER_S

HORIZON_NS = 60 * NS_PER_S
BTC, ETH = "BTC-USD", "ETH-USD"


@dataclass(frozen=True)
class Ticks:
    time_ns: NDArray[np.int64]
    mid: NDArray[np.float64]

    def said(self, product: str = BTC, first: int = 0) -> list[Said]:
        return [
            Said(product, at, row, "volatility/1", row / len(self.time_ns), 0.5)
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


def volatility_of(joined: Sequence[Joined]) -> dict[tuple[str, int], float]:
    return {
        (one.product_id, one.event_time_ns): value
        for part in joined
        for one, value in zip(part.said, part.future_volatility.tolist(), strict=True)
    }


def offline(market_ticks: Ticks, product: str = BTC) -> dict[tuple[str, int], float]:
    """The rows that training would keep, and their truth."""
    of = series((market_ticks.time_ns, market_ticks.mid))
    volatility = future_volatility(of, HORIZON_NS)
    usable = np.flatnonzero(~np.isnan(volatility))
    kept = usable[first_of_each(np.zeros(len(usable), np.int64), of.time_ns[usable], PERIOD_NS)]
    return {(product, int(of.time_ns[row])): float(volatility[row]) for row in kept}


@settings(max_examples=30)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=12), st.booleans())
def test_truth_and_thinning_are_those_of_training_bit_for_bit_however_both_come_in(
    sizes: list[int], predictions_first: bool
) -> None:
    market_ticks, join, joined, done = ticks(), Join(HORIZON_NS, 1), [], 0
    said = market_ticks.said()
    while done < len(said):
        size = sizes[done % len(sizes)]
        if predictions_first:
            join.predictions(said[done : done + size])
        market_ticks.give(join, done, done + size)
        if not predictions_first:
            join.predictions(said[done : done + size])
        joined.append(join.settle())
        done += size
    joined.append(join.finish())
    assert volatility_of(joined) == offline(market_ticks)
    assert join.joined + sum(join.unjoined.values()) == len(said)
    assert join.unjoined["no_tick"] == join.unjoined["repeated"] == join.waiting == 0


def test_a_truth_waits_for_a_tick_later_than_its_horizon() -> None:
    join = Join(HORIZON_NS, 1)
    times = np.array([0, 60, 60, 61], np.int64) * NS_PER_S
    market_ticks = Ticks(times, np.array([100.0, 101.0, 102.0, 103.0]))
    join.predictions(market_ticks.said()[:1])
    market_ticks.give(join, 0, 3)
    assert len(join.settle()) == 0, "another tick of second 60 may come"
    market_ticks.give(join, 3)
    (future,) = join.settle().future_volatility
    assert future == pytest.approx(np.sqrt(np.log(101 / 100) ** 2 + np.log(102 / 101) ** 2))


def test_a_horizon_that_reaches_over_a_gap_has_no_truth_and_one_before_it_has() -> None:
    market_ticks, join = ticks(), Join(HORIZON_NS, 1)
    join.predictions(market_ticks.said())
    market_ticks.give(join, 0, 450)
    join.gap(BTC)
    market_ticks.give(join, 450)
    joined = [join.settle(), join.finish()]
    before, after = (Ticks(market_ticks.time_ns[of], market_ticks.mid[of]) for of in (slice(450), slice(450, None)))
    assert volatility_of(joined) == offline(before) | offline(after)
    assert join.unjoined["gap"] == join.unjoined["past_end"] == 181, "60 s of ticks, and one"


def test_products_do_not_mix() -> None:
    bitcoin, ether, join = ticks(seed=1), ticks(seed=2), Join(HORIZON_NS, 1)
    for start in range(0, 900, 100):
        bitcoin.give(join, start, start + 100, BTC)
        ether.give(join, start, start + 100, ETH)
    join.predictions(ether.said(ETH))
    join.predictions(bitcoin.said(BTC))
    assert volatility_of([join.finish()]) == offline(bitcoin) | offline(ether, ETH)


def test_features_are_those_of_the_tick() -> None:
    market_ticks, join = ticks(), Join(HORIZON_NS, 1)
    market_ticks.give(join)
    join.predictions(market_ticks.said())
    joined = join.finish()
    assert joined.features[:, 0].tolist() == [one.sequence_num for one in joined.said]


def test_two_ticks_of_one_time_and_message_are_told_apart_by_their_order() -> None:
    times = np.array([0, 0, 61, 122], np.int64) * NS_PER_S
    join = Join(HORIZON_NS, 1, period_ns=1)
    join.ticks(BTC, times, np.zeros(4, np.int64), np.array([1.0, 2, 3, 4]), np.arange(4.0)[:, None])
    join.predictions([Said(BTC, 0, 0, "m/1", 0.1, 0.5), Said(BTC, 0, 0, "m/1", 0.2, 0.5)])
    join.finish()
    assert join.unjoined["repeated"] == 0


def test_what_a_killed_worker_says_again_is_counted_and_not_joined_twice() -> None:
    market_ticks, join = ticks(), Join(HORIZON_NS, 1)
    said = market_ticks.said()
    market_ticks.give(join)
    join.predictions([*said[:600], *said[590:]])
    assert volatility_of([join.settle(), join.finish()]) == offline(market_ticks)
    assert join.unjoined["repeated"] == 10


def test_a_prediction_of_a_tick_that_was_never_read_is_counted() -> None:
    market_ticks, join = ticks(), Join(HORIZON_NS, 1)
    market_ticks.give(join, 300)
    join.predictions(market_ticks.said())
    join.predictions([Said(ETH, 5, 5, "volatility/1", 0.5, 0.5)])
    read = Ticks(market_ticks.time_ns[300:], market_ticks.mid[300:])
    assert volatility_of([join.settle(), join.finish()]) == offline(read)
    assert join.unjoined["no_tick"] == 301
    assert join.waiting == 0


def test_the_same_recording_replayed_again_is_joined_again() -> None:
    market_ticks, join = ticks(), Join(HORIZON_NS, 1)
    joined = []
    for _ in range(2):
        market_ticks.give(join)
        join.predictions(market_ticks.said())
        joined.append(join.settle())
        join.gap(BTC)
    joined.append(join.finish())
    assert sum(map(len, joined)) == 2 * len(offline(market_ticks))
    assert volatility_of(joined) == offline(market_ticks)


def test_memory_is_bounded_while_predictions_do_not_come() -> None:
    join, market_ticks = Join(HORIZON_NS, 1, max_ticks=1000), ticks(2000)
    for start in range(0, 6000, 100):
        market_ticks.give(join, start, start + 100)
        join.settle()
    assert join._ticks <= 1000
    join.predictions(market_ticks.said())
    join.finish()
    assert join.joined + sum(join.unjoined.values()) == 6000
    assert join.unjoined["no_tick"] >= 5000


def test_memory_is_bounded_while_ticks_do_not_come() -> None:
    join = Join(HORIZON_NS, 1, max_waiting=100)
    join.predictions(ticks().said())
    join.settle()
    assert join.waiting == 100
    assert join.unjoined["overflow"] == 800
    assert not join.wants_predictions


def test_what_is_joined_is_forgotten() -> None:
    join, market_ticks = Join(HORIZON_NS, 1), ticks(3600)
    said = market_ticks.said()
    for start in range(0, len(said), 500):
        market_ticks.give(join, start, start + 500)
        join.predictions(said[start : start + 500])
        join.settle()
    assert join._ticks < 1500, "three minutes at three ticks a second, and a batch"


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
