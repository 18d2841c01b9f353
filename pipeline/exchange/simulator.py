"""A simulated market: top-of-book updates whose volatility clusters and jumps, the same for the same seed.

Per product, in blocks of a minute:
- volatility is calm, with lively spells (`pipeline/exchange/volatility.py`);
- updates arrive as a Cox process: a Poisson process whose rate grows with volatility and varies by itself;
- some updates move the mid. Sizes of moves are log-normal, so that a few moves make most of a minute's volatility;
- the spread is a Markov chain of two states, one grid step and wide. Wide spreads are exponential and more frequent in
  turmoil;
- the imbalance of the book reverts to zero, and the next move leans to its side.

`python -m benchmarks.market` prints the statistics of this market beside those of the recordings.
"""

from __future__ import annotations

import heapq
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.exchange.volatility import BLOCK_S, STEP_S, OrnsteinUhlenbeck, Volatility
from pipeline.feed.rfc3339 import NS_PER_S

START_NS = 1_767_225_600 * NS_PER_S  # 2026-01-01T00:00:00Z: the ticks of a seed do not depend on when it is run
QUANTITY_SCALE = 10**8
PRICE_SCALE = 100  # the grid is 0.01

_DAY_S = 86_400
# Each simulated timestamp ends in 777 ns, so that a reader of any topic can distinguish this market from a real market.
# Real feeds and their recorders stamp in microseconds, or with digits that vary.
_MARK_NS = 777
_US = 1000


@dataclass(frozen=True, slots=True)
class Profile:
    """The properties of a product."""

    product_id: str
    price: float  # at the start, quote currency
    volatility_bps: float  # in calm, over 60 s
    quantity: float  # median at the top of the book, base currency
    wide_spread: float  # mean of a wide spread in calm, over price
    volume_24h: float


PROFILES = {
    profile.product_id: profile
    for profile in (
        Profile("BTC-USD", 94_500.0, 2.15, 0.03, 1.5e-5, 8_000.0),
        Profile("ETH-USD", 3_300.0, 2.15, 0.8, 2.0e-5, 110_000.0),
    )
}


class SimulatedTick(NamedTuple):
    """One update. Prices count steps of 0.01, quantities of 1e-8, so that nothing is lost in printing."""

    event_time_ns: int
    product_id: str
    price: int
    bid: int
    ask: int
    bid_quantity: int
    ask_quantity: int
    low: int  # of the day
    high: int
    change: float  # of the day, percent
    volume: float  # over 24 hours


def simulate(
    products: Iterable[str], seed: int, rate_per_s: float, start_ns: int = START_NS
) -> Iterator[SimulatedTick]:
    """Endless updates of the products, in time order, `rate_per_s` each on average.

    A product's updates depend on (seed, product, rate_per_s, start_ns) alone, not on its company.
    """
    streams = [_Market(PROFILES[product], seed, rate_per_s, start_ns).ticks() for product in products]
    return heapq.merge(*streams)


def is_simulated(event_time_ns: int) -> bool:
    """Whether the time of a tick is from this market."""
    return event_time_ns >= START_NS and event_time_ns % _US == _MARK_NS


def describe_market(event_time_ns: int) -> str:
    """The date of a tick, UTC, after the words "simulated market" if it is from this market."""
    date = f"{datetime.fromtimestamp(event_time_ns // NS_PER_S, UTC):%Y-%m-%d} UTC"
    return f"simulated market, {date}" if is_simulated(event_time_ns) else date


class _Market:
    """One product's market."""

    _RATE_POWER = 0.4  # the rate of updates grows as volatility to this power
    _RATE_NORM = 0.90  # makes the mean rate equal to the requested rate
    _RATE_RELAXATION_S, _RATE_SD = 10.0, 0.25  # of the logarithm of the rate, beyond volatility's effect
    _MOVES_PER_S = 1.2  # updates that move the mid, at the mean rate of updates
    _MOVE_SD = 0.5  # of the logarithm of a move's size
    _WIDEN, _NARROW = 0.06, 0.10  # of a narrow and of a wide spread, per update, in calm
    _TRADES = 0.33  # how often an update is a trade
    _IMBALANCE_KEEP = 0.72  # from update to update
    _LEAN = 0.4
    _TREND = 0.75  # share of updates whose moves go in the direction of the update before
    _REVERSION_S = 30.0 * _DAY_S  # keeps the price within reason however long the market runs

    def __init__(self, profile: Profile, seed: int, rate_per_s: float, start_ns: int) -> None:
        self._profile = profile
        self._rng = np.random.default_rng([seed % 2**64, zlib.crc32(profile.product_id.encode())])
        self._volatility = Volatility(self._rng)
        self._log_rate = OrnsteinUhlenbeck.drawn(self._RATE_RELAXATION_S, self._RATE_SD, self._rng)
        self._rate_per_s = rate_per_s
        self._start_ns = start_ns
        self._log_mid = math.log(profile.price)
        self._time_us = start_ns // _US - 1
        self._spread = 1
        self._imbalance = 0.0
        self._sign = 1.0
        self._volume = profile.volume_24h
        self._price = self._open = self._low = self._high = round(profile.price * PRICE_SCALE)

    def ticks(self) -> Iterator[SimulatedTick]:
        block = 0
        while True:
            if block * BLOCK_S % _DAY_S == 0:
                self._open = self._low = self._high = self._price
            yield from self._block(self._start_ns + block * BLOCK_S * NS_PER_S)
            block += 1

    def _block(self, block_ns: int) -> Iterator[SimulatedTick]:
        levels = self._volatility.block()
        rates = self._rates(levels)
        seconds, time_ns = self._arrivals(rates, block_ns)
        count = len(seconds)
        if not count:
            self._volatility.release(np.zeros(BLOCK_S // STEP_S))
            return iter(())
        imbalance = self._imbalances(count)
        moves = self._moves(levels, rates, seconds, imbalance)
        steps = np.bincount(seconds // STEP_S, moves, BLOCK_S // STEP_S).astype(np.float64)
        self._volatility.release(steps)
        center = self._centers(moves)
        spread = self._spreads(levels[seconds], moves != 0.0)
        bid = np.maximum(np.floor(center - spread / 2 + 0.5).astype(np.int64), 1)
        ask = bid + spread
        share = 0.5 + 0.5 * np.tanh(1.4 * imbalance[1:])  # of the bid in the quantities shown
        price = self._prices(bid, ask, share)
        low, high = np.minimum.accumulate(price), np.maximum.accumulate(price)
        low, high = np.minimum(low, self._low), np.maximum(high, self._high)
        self._low, self._high = int(low[-1]), int(high[-1])
        total = 2 * self._profile.quantity * QUANTITY_SCALE * np.exp(1.5 * self._rng.standard_normal(count))
        bid_quantity = np.maximum(total * share, 1.0).astype(np.int64)
        ask_quantity = np.maximum(total * (1.0 - share), 1.0).astype(np.int64)
        change = 100.0 * (price / self._open - 1.0)
        self._volume += (float(levels.mean()) - self._volume / self._profile.volume_24h) * (
            self._profile.volume_24h * BLOCK_S / _DAY_S
        )
        columns = (time_ns, price, bid, ask, bid_quantity, ask_quantity, low, high, change)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        product_id, volume = self._profile.product_id, self._volume
        return (SimulatedTick._make((row[0], product_id, *row[1:], volume)) for row in rows)

    def _rates(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Updates per second, expected in each second (BLOCK_S,)."""
        noise = np.array(self._log_rate.path(self._rng, BLOCK_S))
        rates = self._rate_per_s * self._RATE_NORM * np.exp(noise) * levels**self._RATE_POWER
        return np.asarray(rates, np.float64)

    def _arrivals(self, rates: NDArray[np.float64], block_ns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The second of the block in which each update arrives (n,), and when, in strictly rising ns (n,)."""
        seconds = np.repeat(np.arange(BLOCK_S), self._rng.poisson(rates))
        us_per_s = NS_PER_S // _US
        time_us = np.sort(block_ns // _US + seconds * us_per_s + self._rng.integers(0, us_per_s, len(seconds)))
        if len(time_us):
            steps = np.arange(len(time_us))
            time_us[0] = max(time_us[0], self._time_us + 1)
            time_us = np.maximum.accumulate(time_us - steps) + steps
            self._time_us = int(time_us[-1])
        return seconds, time_us * _US + _MARK_NS

    def _imbalances(self, count: int) -> NDArray[np.float64]:
        """The state of the imbalance before each update, and after the last one (n + 1,). Standard normal."""
        keep = self._IMBALANCE_KEEP
        path = [self._imbalance]
        for noise in (math.sqrt(1 - keep * keep) * self._rng.standard_normal(count)).tolist():
            path.append(keep * path[-1] + noise)
        self._imbalance = path[-1]
        return np.array(path)

    def _moves(
        self,
        levels: NDArray[np.float64],
        rates: NDArray[np.float64],
        seconds: NDArray[np.int64],
        imbalance: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Log returns of the mid (n,). Their variance per second depends on the level alone, not on the rate."""
        count = len(seconds)
        probability = min(self._MOVES_PER_S / self._rate_per_s, 1.0)
        second_sd = self._profile.volatility_bps / 1e4 / math.sqrt(60.0) * levels
        move_sd = second_sd / np.sqrt(probability * rates)
        sizes = np.exp(self._MOVE_SD * self._rng.standard_normal(count) - self._MOVE_SD**2)  # mean square 1
        moved, up = self._rng.random((2, count))
        signs = np.where(up < 0.5 + 0.5 * self._LEAN * np.tanh(imbalance[:-1]), 1.0, -1.0)
        return np.where(moved < probability, self._trending(signs) * sizes * move_sd[seconds], 0.0)

    def _trending(self, signs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Signs (n,) of which a share repeats the sign before, so that moves add up over seconds."""
        new = self._rng.random(len(signs)) >= self._TREND
        last = np.maximum.accumulate(np.where(new, np.arange(len(signs)), -1))
        trending = np.where(last >= 0, signs[last], self._sign)
        self._sign = float(trending[-1])
        return trending

    def _centers(self, moves: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where the mid would be without a grid, in grid steps (n,)."""
        self._log_mid += (math.log(self._profile.price) - self._log_mid) * BLOCK_S / self._REVERSION_S
        path = self._log_mid + np.cumsum(moves)
        self._log_mid = float(path[-1])
        return np.exp(path) * PRICE_SCALE

    def _spreads(self, levels: NDArray[np.float64], moved: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Spreads in grid steps (n,). A wide spread keeps its width until the mid moves or the spread narrows."""
        mean = self._profile.wide_spread * self._profile.price * PRICE_SCALE * np.sqrt(levels)
        wide = 2 + (self._rng.exponential(1.0, len(levels)) * mean).astype(np.int64)
        widen = np.minimum(self._WIDEN * levels, 0.5)
        uniform = self._rng.random(len(levels))
        spread, path = self._spread, []
        rows = zip(*(column.tolist() for column in (uniform, widen, wide, moved)), strict=True)
        for draw, widens, width, new in rows:
            if spread == 1:
                spread = width if draw < widens else 1
            elif draw < self._NARROW:
                spread = 1
            elif new:
                spread = width
            path.append(spread)
        self._spread = spread
        return np.array(path)

    def _prices(self, bid: NDArray[np.int64], ask: NDArray[np.int64], share: NDArray[np.float64]) -> NDArray[np.int64]:
        """Prices of the last trade (n,). The larger side of the book is traded against less often."""
        traded, side = self._rng.random((2, len(bid)))
        sides = np.where(side < 0.25 + 0.5 * share, ask, bid)
        last = np.maximum.accumulate(np.where(traded < self._TRADES, np.arange(len(bid)), -1))
        prices = np.where(last >= 0, sides[last], self._price)
        self._price = int(prices[-1])
        return prices
