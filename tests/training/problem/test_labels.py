from __future__ import annotations

import math

import numpy as np
import pytest

from tests.training.synthetic import past_volatility, series
from training.problem.labels import future_volatility, labels, spike_threshold
from training.problem.ticks import NS_PER_S, TickSeries

HORIZON_NS = 60 * NS_PER_S


def irregular(seed: int, count: int = 400) -> TickSeries:
    """Two segments with silences, bursts and ticks that share a time."""
    random = np.random.default_rng(seed)
    steps = random.choice([0, 1, 250_000_000, NS_PER_S, 20 * NS_PER_S], size=count, p=[0.2, 0.1, 0.3, 0.3, 0.1])
    time_ns = np.cumsum(steps)
    mid = 100 * np.exp(np.cumsum(random.normal(scale=1e-4, size=count)))
    half = count // 2
    return series((time_ns[:half], mid[:half]), (time_ns[half:] + 5 * NS_PER_S, mid[half:]))


def by_hand(ticks: TickSeries, row: int, low_ns: int, high_ns: int, last_row: int) -> float:
    """√Σr² over the returns of ticks of the row's segment with low < time <= high and number <= last_row."""
    total = 0.0
    for tick in range(1, last_row + 1):
        if (
            ticks.segment[tick] == ticks.segment[tick - 1] == ticks.segment[row]
            and low_ns < ticks.time_ns[tick] <= high_ns
        ):
            total += math.log(ticks.mid[tick] / ticks.mid[tick - 1]) ** 2
    return math.sqrt(total)


@pytest.mark.parametrize("seed", range(3))
def test_future_volatility_is_the_sum_over_ticks_after_t_up_to_the_horizon(seed: int) -> None:
    ticks = irregular(seed)
    volatility = future_volatility(ticks, HORIZON_NS)
    assert 50 < np.count_nonzero(~np.isnan(volatility)) < len(ticks)
    for row in range(len(ticks)):
        time_ns = int(ticks.time_ns[row])
        end_ns = int(ticks.time_ns[ticks.segment == ticks.segment[row]].max())
        if time_ns + HORIZON_NS > end_ns:
            assert math.isnan(volatility[row])
        else:
            expected = by_hand(ticks, row, time_ns, time_ns + HORIZON_NS, len(ticks) - 1)
            assert volatility[row] == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_past_volatility_is_the_sum_over_the_window_as_of_the_tick_itself(seed: int) -> None:
    ticks = irregular(seed)
    volatility = past_volatility(ticks, HORIZON_NS)
    for row in range(len(ticks)):
        time_ns = int(ticks.time_ns[row])
        expected = by_hand(ticks, row, time_ns - HORIZON_NS, time_ns, row)
        assert volatility[row] == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_what_comes_up_to_t_does_not_change_the_label() -> None:
    ticks = irregular(7)
    row = 100
    mid = ticks.mid.copy()
    mid[: row + 1] *= np.linspace(0.5, 1.0, row + 1)  # the past is another; the mid at t is the same
    before = future_volatility(ticks, HORIZON_NS)[row]
    after = future_volatility(TickSeries(ticks.time_ns, mid, ticks.segment), HORIZON_NS)[row]
    assert after == pytest.approx(before, rel=1e-6)


def test_a_market_that_stands_still_has_zero_volatility() -> None:
    ticks = TickSeries(np.arange(200) * NS_PER_S, np.full(200, 90_000.0), np.zeros(200, np.int64))
    assert np.nanmax(future_volatility(ticks, HORIZON_NS)) == 0.0


def test_a_spike_is_at_least_the_threshold() -> None:
    assert labels(np.array([1.0, 2.0, 3.0]), 2.0).tolist() == [0, 1, 1]


def test_the_threshold_leaves_a_tenth_of_the_training_rows_above_it() -> None:
    volatility = np.random.default_rng(0).lognormal(size=5000)
    assert labels(volatility, spike_threshold(volatility, 0.90)).mean() == pytest.approx(0.10, abs=0.001)
