"""Each hour of the simulated market suits the shipped model: its spike size, and its probabilities."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
import pytest

from benchmarks.market import MAX_DIFFERENCE, SHARES, hours
from pipeline.exchange.simulator import PROFILES, START_NS, describe_market, is_simulated, simulate


@pytest.mark.slow
@pytest.mark.parametrize("product", PROFILES)
@pytest.mark.parametrize("seed", [1, 7, 20_261_127])
def test_each_hour_has_its_share_of_spikes_and_the_model_expects_about_that_share(product: str, seed: int) -> None:
    for hour in hours(product, seed, 3):
        assert SHARES[0] <= hour.spike_share <= SHARES[1], hour
        assert abs(hour.mean_probability - hour.spike_share) <= MAX_DIFFERENCE, hour


@pytest.mark.slow
@pytest.mark.parametrize("rate_per_s", [2.0, 20.0])
def test_the_share_of_spikes_does_not_depend_on_the_rate_of_updates(rate_per_s: float) -> None:
    shares = [hour.spike_share for hour in hours("BTC-USD", 3, 2, rate_per_s)]
    assert SHARES[0] <= min(shares) <= max(shares) <= SHARES[1]


def test_prices_go_on_from_hour_to_hour() -> None:
    end_ns = START_NS + 4 * 3_600_000_000_000
    ticks = list(takewhile(lambda tick: tick.event_time_ns < end_ns, simulate(["ETH-USD"], 2, 1.0)))
    returns = np.diff(np.log([tick.bid + tick.ask for tick in ticks]))
    assert abs(returns).max() < 20e-4, "no step between two updates is larger than a jump of the market"


def test_a_simulated_time_is_told_from_a_recorded_one() -> None:
    tick = next(simulate(["BTC-USD"], 1, 5.0))
    assert is_simulated(tick.event_time_ns)
    assert describe_market(tick.event_time_ns) == "simulated market, 2026-01-01 UTC"
    recorded_ns = 1_775_428_513_925_000_000
    assert not is_simulated(recorded_ns)
    assert not is_simulated(tick.event_time_ns - 10**18), "before the simulated market opened"
    assert describe_market(recorded_ns) == "2026-04-05 UTC"


def test_all_simulated_times_carry_the_mark_at_the_highest_rate_too() -> None:
    ticks = takewhile(lambda tick: tick.event_time_ns < START_NS + 2 * 10**9, simulate(PROFILES, 1, 10_000.0))
    assert all(is_simulated(tick.event_time_ns) for tick in ticks)
