from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import cache
from itertools import islice, takewhile

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.exchange.items import simulated
from pipeline.exchange.simulator import PROFILES, START_NS, SimulatedTick, simulate
from pipeline.exchange.volatility import Volatility

HOUR_NS = 3_600_000_000_000


@cache
def hours(product: str, count: int, rate_per_s: float = 5.0) -> list[SimulatedTick]:
    end_ns = START_NS + count * HOUR_NS
    return list(takewhile(lambda tick: tick.event_time_ns < end_ns, simulate([product], 1, rate_per_s)))


def realized_volatility(ticks: list[SimulatedTick], window_s: float = 60.0) -> NDArray[np.float64]:
    """Over the window, every 60 s."""
    time_s = np.array([tick.event_time_ns - START_NS for tick in ticks]) / 1e9
    log_mid = np.log([tick.bid + tick.ask for tick in ticks])
    sums = np.concatenate([[0.0, 0.0], np.cumsum(np.diff(log_mid) ** 2)])
    grid = np.arange(window_s, time_s[-1], 60.0)
    squares = sums[np.searchsorted(time_s, grid)] - sums[np.searchsorted(time_s, grid - window_s)]
    return np.asarray(np.sqrt(squares), np.float64)


@pytest.mark.process
def test_a_seed_gives_the_same_ticks_in_another_process_byte_for_byte() -> None:
    code = (
        "from itertools import islice; from hashlib import sha256\n"
        "from pipeline.exchange.items import simulated; from pipeline.exchange.simulator import PROFILES, simulate\n"
        "items = islice(simulated(simulate(PROFILES, 7, 20.0)), 5000)\n"
        "print(sha256(b''.join(item.head + item.tail for item in items)).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    here = b"".join(item.head + item.tail for item in islice(simulated(simulate(PROFILES, 7, 20.0)), 5000))
    assert other.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_seeds_differ() -> None:
    one, two = (list(islice(simulate(PROFILES, seed, 5.0), 50)) for seed in (1, -1))
    assert one != two


@pytest.mark.parametrize("product", PROFILES)
def test_a_product_does_not_depend_on_its_company(product: str) -> None:
    together = [tick for tick in islice(simulate(PROFILES, 3, 5.0), 4000) if tick.product_id == product]
    alone = list(islice(simulate([product], 3, 5.0), len(together)))
    assert len(together) > 1000
    assert together == alone


def test_products_come_merged_in_time_order() -> None:
    ticks = list(islice(simulate(PROFILES, 1, 20.0), 20_000))
    times = [tick.event_time_ns for tick in ticks]
    assert times == sorted(times)
    assert times[0] >= START_NS
    assert {tick.product_id for tick in ticks} == {"BTC-USD", "ETH-USD"}


@pytest.mark.parametrize("product", PROFILES)
def test_every_tick_is_sound_and_times_of_a_product_only_rise(product: str) -> None:
    ticks = hours(product, 6)
    assert all(0 < tick.bid < tick.ask and tick.price > 0 for tick in ticks)
    assert all(tick.bid_quantity > 0 and tick.ask_quantity > 0 for tick in ticks)
    assert all(tick.low <= tick.price <= tick.high for tick in ticks)
    assert (np.diff([tick.event_time_ns for tick in ticks]) > 0).all()


def test_the_rate_is_about_the_one_asked_for() -> None:
    """Over days; within hours it follows volatility."""
    counts = [len(hours(product, 24, 0.5)) / 43_200 for product in PROFILES]
    assert 0.75 < float(np.mean(counts)) < 1.3


def test_volatility_is_that_of_the_recordings_with_spells_that_pass_the_spike_size() -> None:
    volatility = realized_volatility(hours("BTC-USD", 6))
    median = float(np.median(volatility))
    # Recordings of ten minutes or more: 1.5 to 6.1 bps.
    assert 1.5e-4 < median < 4e-4
    # Spikes are rare, but there: neither a flat line nor all noise.
    assert np.quantile(volatility, 0.75) < 2 * median
    assert 2.5 * median < volatility.max() < 15e-4
    # The recordings have -0.5 to 0.6 within a piece.
    logs = np.log(volatility[volatility > 0])
    assert 0.1 < np.corrcoef(logs[:-1], logs[1:])[0, 1] < 0.6, "a minute foretells the next, a little"


def test_updates_come_faster_when_volatility_is_high() -> None:
    ticks = hours("ETH-USD", 6)
    minute = ((np.array([tick.event_time_ns for tick in ticks]) - START_NS) // (60 * 10**9)).astype(int)
    counts = np.bincount(minute)[: 6 * 60]
    volatility = realized_volatility(ticks)
    size = min(len(volatility), len(counts))
    assert np.corrcoef(counts[:size], volatility[:size])[0, 1] > 0.4


def test_the_books_imbalance_reverts_and_leans_slightly_on_the_next_move() -> None:
    ticks = hours("BTC-USD", 6)
    bid, ask = (np.array([getattr(tick, name) for tick in ticks], float) for name in ("bid_quantity", "ask_quantity"))
    imbalance = (bid - ask) / (bid + ask)
    returns = np.diff(np.log([tick.bid + tick.ask for tick in ticks]))
    assert abs(imbalance.mean()) < 0.05
    assert 0.5 < np.corrcoef(imbalance[:-1], imbalance[1:])[0, 1] < 0.85
    assert 0.02 < np.corrcoef(imbalance[:-1], returns)[0, 1] < 0.3


def test_spreads_are_mostly_one_step_and_wider_in_turmoil() -> None:
    ticks = hours("BTC-USD", 6)
    spread = np.array([tick.ask - tick.bid for tick in ticks])
    minute = ((np.array([tick.event_time_ns for tick in ticks]) - START_NS) // (60 * 10**9)).astype(int)
    assert np.median(spread) == 1
    volatility = realized_volatility(ticks)
    mean_spread = (np.bincount(minute, spread) / np.maximum(np.bincount(minute), 1))[: len(volatility)]
    wild = volatility > np.quantile(volatility, 0.9)
    assert mean_spread[wild].mean() > 1.5 * mean_spread[~wild].mean()


def test_prices_stay_within_reason_for_days() -> None:
    ticks = [tick for product in PROFILES for tick in hours(product, 24 * 2, 0.1)]
    ratios = [tick.bid / 100 / PROFILES[tick.product_id].price for tick in ticks]
    assert 0.5 < min(ratios) < max(ratios) < 2.0


def test_a_minute_without_updates_counts_as_a_minute_without_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[NDArray[np.float64]] = []
    monkeypatch.setattr(Volatility, "release", lambda self, returns: released.append(returns))
    ticks = list(islice(simulate(["BTC-USD"], 1, 0.005), 10))
    minutes = (ticks[-1].event_time_ns - START_NS) // (60 * 10**9) + 1
    assert len(released) == minutes
    assert sum(not returns.any() for returns in released) > minutes / 2
