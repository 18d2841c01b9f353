"""A simulated market: top-of-book updates whose volatility clusters and jumps, the same for the same seed.

The model, per product, on a grid of one second:
- log volatility is the sum of two Ornstein-Uhlenbeck processes, slow (an hour) and fast (minutes), the
  two-factor form of stochastic volatility (Chernov et al., 2003, J. Econometrics 116);
- bursts arrive as a self-exciting point process (Hawkes, 1971, Biometrika 58): each moves the price at
  once, lifts volatility for about a minute, and makes the next burst likelier;
- updates arrive as a Poisson process whose rate grows with volatility.

Between updates the efficient log price diffuses. Quotes follow it with inertia (on two updates of three
the mid stays, as on the real feed), the spread is one grid step in calm and wider in turmoil, and the
imbalance of the book reverts to zero and leans slightly on the next move. Levels were set beside the
recordings of 2025 and 2026: realized volatility over 60 s mostly 1 to 20 bps, median about 4.
"""

from __future__ import annotations

import heapq
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.feed.rfc3339 import NS_PER_S

START_NS = 1_767_225_600 * NS_PER_S  # 2026-01-01T00:00:00Z: the ticks of a seed do not depend on when it is run
QUANTITY_SCALE = 10**8
PRICE_SCALE = 100  # the grid is 0.01

_BLOCK_S = 60
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Profile:
    """What tells one product from another."""

    product_id: str
    price: float  # at the start, quote currency
    volatility: float  # typical, of log returns over one second
    quantity: float  # median at the top of the book, base currency
    wide_spread: float  # mean of a spread that is wider than one step, over price, in typical volatility
    volume_24h: float


PROFILES = {
    profile.product_id: profile
    for profile in (
        Profile("BTC-USD", 94_500.0, 5.0e-5, 0.02, 1.2e-5, 8_000.0),
        Profile("ETH-USD", 3_300.0, 6.5e-5, 0.6, 2.0e-5, 110_000.0),
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


class _Volatility:
    """Volatility relative to its typical level, second by second."""

    _SLOW_S, _SLOW_SD = 3600.0, 0.5
    _FAST_S, _FAST_SD = 300.0, 0.4
    _BURST_S = 50.0  # how long a burst lasts, as its decay
    _BURSTS_PER_S = 1 / 900
    _BURST_SIZE = 1.2  # mean lift of volatility by a burst, relative
    _HIGHEST = 40.0
    _EXCITATION = 0.40  # bursts that a burst of mean size brings about: below 1, so that they die out

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._slow = self._SLOW_SD * rng.standard_normal()
        self._fast = self._FAST_SD * rng.standard_normal()
        self._lift = 0.0

    def block(self) -> tuple[NDArray[np.float64], list[int]]:
        """Relative volatility (seconds,), and the seconds at which bursts begin."""
        noise = self._rng.standard_normal((_BLOCK_S, 2))
        uniform = self._rng.random(_BLOCK_S)
        sizes = self._rng.exponential(self._BURST_SIZE, _BLOCK_S)
        slow_keep, fast_keep = math.exp(-1 / self._SLOW_S), math.exp(-1 / self._FAST_S)
        slow_sd = self._SLOW_SD * math.sqrt(1 - slow_keep**2)
        fast_sd = self._FAST_SD * math.sqrt(1 - fast_keep**2)
        lift_keep = math.exp(-1 / self._BURST_S)
        excitation = self._EXCITATION / (self._BURST_SIZE * self._BURST_S)
        levels, bursts = np.empty(_BLOCK_S), []
        for second in range(_BLOCK_S):
            self._slow = slow_keep * self._slow + slow_sd * float(noise[second, 0])
            self._fast = fast_keep * self._fast + fast_sd * float(noise[second, 1])
            self._lift *= lift_keep
            if uniform[second] < self._BURSTS_PER_S + excitation * self._lift:
                self._lift += float(sizes[second])
                bursts.append(second)
            levels[second] = min(math.exp(self._slow + self._fast) * (1.0 + self._lift), self._HIGHEST)
        return levels, bursts


class _Market:
    """One product's market."""

    _RATE_POWER = 0.6  # arrivals grow as volatility to this power
    _RATE_NORM = 0.89  # makes their mean the rate asked for, as measured over 30 simulated days
    _RATE_LIMITS = 0.2, 6.0
    _BURST_MOVE = 4.0  # the move at a burst, in volatilities over one second
    _REQUOTE = 0.35  # how often quotes move to where the price is
    _TRADES = 0.33  # how often an update is a trade
    _IMBALANCE_KEEP = 0.72  # from update to update
    _LEAN = 0.3
    _REVERSION_S = 30.0 * _DAY_S  # keeps the price within reason however long the market runs

    def __init__(self, profile: Profile, seed: int, rate_per_s: float, start_ns: int) -> None:
        self._profile = profile
        self._rng = np.random.default_rng([seed % 2**64, zlib.crc32(profile.product_id.encode())])
        self._volatility = _Volatility(self._rng)
        self._rate_per_s = rate_per_s
        self._start_ns = start_ns
        self._log_price = math.log(profile.price)
        self._time_ns = start_ns - 1
        self._bid = self._price = round(profile.price * PRICE_SCALE)
        self._ask = self._bid + 1
        self._imbalance = 0.0
        self._volume = profile.volume_24h
        self._open = self._low = self._high = self._price

    def ticks(self) -> Iterator[SimulatedTick]:
        block = 0
        while True:
            if block * _BLOCK_S % _DAY_S == 0:
                self._open = self._low = self._high = self._price
            yield from self._block(self._start_ns + block * _BLOCK_S * NS_PER_S)
            block += 1

    def _block(self, block_ns: int) -> Iterator[SimulatedTick]:
        levels, bursts = self._volatility.block()
        offsets_ns, seconds = self._arrivals(levels)
        count = len(offsets_ns)
        moves = self._rng.standard_normal(count) * self._profile.volatility * levels[seconds]
        jumps = self._jumps(levels, bursts, seconds)
        noise = self._rng.standard_normal((count, 2))
        uniform = self._rng.random((count, 3))
        spreads = self._spreads(levels[seconds])
        self._volume += (float(levels.mean()) - self._volume / self._profile.volume_24h) * (
            self._profile.volume_24h * _BLOCK_S / _DAY_S
        )
        reversion = (math.log(self._profile.price) - self._log_price) * _BLOCK_S / self._REVERSION_S
        self._log_price += reversion
        columns = (offsets_ns + block_ns, moves, jumps, spreads, noise, uniform)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for time_ns, move, jump, spread, (tilt, size), (requote, trade, side) in rows:
            self._step(time_ns, move, jump, tilt)
            if jump or requote < self._REQUOTE:
                self._quote(spread)
            yield self._tick(size, trade, side)

    def _jumps(self, levels: NDArray[np.float64], bursts: list[int], seconds: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log returns (n,) at the first update of each second in which a burst begins; else zero."""
        jumps = np.zeros(len(seconds))
        for second, size in zip(bursts, self._rng.standard_normal(len(bursts)).tolist(), strict=True):
            first = int(np.searchsorted(seconds, second))
            if first < len(seconds):
                jumps[first] = size * self._BURST_MOVE * self._profile.volatility * float(levels[second])
        return jumps

    def _arrivals(self, levels: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """When updates arrive within the block, ns (n,), and in which second each does (n,)."""
        low, high = self._RATE_LIMITS
        rates = self._rate_per_s * np.clip(levels**self._RATE_POWER * self._RATE_NORM, low, high)
        seconds = np.repeat(np.arange(_BLOCK_S), self._rng.poisson(rates))
        offsets_ns = np.sort(seconds * NS_PER_S + self._rng.integers(0, NS_PER_S, len(seconds)))
        return offsets_ns, offsets_ns // NS_PER_S

    def _spreads(self, levels: NDArray[np.float64]) -> NDArray[np.int64]:
        """Spread, in grid steps (n,), that each update would quote."""
        tight = self._rng.random(len(levels)) < np.clip(0.8 / np.sqrt(levels), 0.05, 0.97)
        mean = self._profile.wide_spread * self._profile.price * PRICE_SCALE * np.minimum(levels, 10.0)
        wide = 1 + (self._rng.exponential(1.0, len(levels)) * mean).astype(np.int64)
        return np.where(tight, 1, wide)

    def _step(self, time_ns: int, move: float, jump: float, tilt: float) -> None:
        """Moves time, imbalance and the efficient price on. move: log return over a whole second."""
        time_ns = max(time_ns, self._time_ns + 1)
        root_s = math.sqrt(min((time_ns - self._time_ns) / NS_PER_S, _BLOCK_S))
        self._time_ns = time_ns
        self._log_price += (move + self._LEAN * self._imbalance * abs(move)) * root_s + jump
        keep = self._IMBALANCE_KEEP
        self._imbalance = keep * self._imbalance + math.sqrt(1 - keep * keep) * tilt

    def _quote(self, spread: int) -> None:
        self._bid = max(round(math.exp(self._log_price) * PRICE_SCALE - spread / 2), 1)
        self._ask = self._bid + spread

    def _tick(self, size: float, trade: float, side: float) -> SimulatedTick:
        share = 0.5 + 0.5 * math.tanh(1.4 * self._imbalance)  # of the bid in the quantities shown
        if trade < self._TRADES:
            self._price = self._ask if side < 0.25 + 0.5 * share else self._bid
            self._low, self._high = min(self._low, self._price), max(self._high, self._price)
        total = 2 * self._profile.quantity * math.exp(1.5 * size) * QUANTITY_SCALE
        return SimulatedTick(
            self._time_ns,
            self._profile.product_id,
            self._price,
            self._bid,
            self._ask,
            max(int(total * share), 1),
            max(int(total * (1 - share)), 1),
            self._low,
            self._high,
            100.0 * (self._price / self._open - 1.0),
            self._volume,
        )
