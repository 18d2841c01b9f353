"""Volatility of the simulated market, second by second: it varies slowly and fast, and has lively spells.

- In calm, log volatility has two Ornstein-Uhlenbeck processes, slow (half an hour) and fast (five minutes): the
  two-factor form of stochastic volatility (Chernov, Gallant, Ghysels and Tauchen, 2003, "Alternative models for stock
  price dynamics", J. Econometrics 116).
- A lively spell adds variance. It rises in seconds, lasts, and decays. Each slot of twelve minutes has a spell, which
  starts at a random time of the slot's first half: stratified sampling of a Poisson process (J. Neyman, 1934, "On the
  two different aspects of the representative method", J. of the Royal Statistical Society 97).
- The length of a spell follows the stress-release model (Isham and Westcott, 1979, "A self-correcting point process",
  Stochastic Processes and their Applications 8; Vere-Jones, 1978, J. Physics of the Earth 26). Stress is the time that
  the market still has to spend at or above the spike size. It grows by a fixed share of time. Realized volatility
  releases it, and a spell lasts the longer the more stress is left.

A Poisson or self-exciting process of spells makes some hours all calm and others all turmoil. The time that a
self-correcting process spends at or above the spike size has a bounded variance, so each hour has its share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK_S = 60
WINDOW_S, STEP_S = 60, 5  # of realized volatility, as forecasts have it (training/problem/target.py)
RISE_S, FALL_S = 20.0, 15.0  # of a spell; the fall by a factor e
AFTERMATH_S = 30.0  # a spell of no length leaves about as much time at or above the spike size
MAX_HOLD_S = 60.0


@dataclass(slots=True)
class OrnsteinUhlenbeck:
    """An Ornstein-Uhlenbeck process, observed each second."""

    relaxation_s: float
    sd: float
    value: float

    @classmethod
    def drawn(cls, relaxation_s: float, sd: float, rng: np.random.Generator) -> OrnsteinUhlenbeck:
        """In its stationary distribution."""
        return cls(relaxation_s, sd, sd * float(rng.standard_normal()))

    def path(self, rng: np.random.Generator, seconds: int) -> list[float]:
        keep = math.exp(-1 / self.relaxation_s)
        noise_sd = self.sd * math.sqrt(1 - keep * keep)
        path = []
        for noise in rng.standard_normal(seconds).tolist():
            self.value = keep * self.value + noise_sd * noise
            path.append(self.value)
        return path


class Spell(NamedTuple):
    """Variance added to the calm variance: up to height² within RISE_S, for hold_s, and then down."""

    start_s: float
    hold_s: float
    height: float  # volatility over its calm level

    def variance(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """At each time (n,), over the calm variance (n,)."""
        age_s = seconds - self.start_s
        shape = np.clip(age_s / RISE_S, 0.0, 1.0) * np.exp(-np.maximum(age_s - RISE_S - self.hold_s, 0.0) / FALL_S)
        return np.asarray(np.square(self.height * shape), np.float64)


class Volatility:
    """Volatility relative to its calm level, one block of BLOCK_S seconds after another."""

    SLOW_S, SLOW_SD = 1800.0, 0.1
    FAST_S, FAST_SD = 300.0, 0.12
    HEIGHT, HEIGHT_SD = 3.6, 0.05  # of a spell; standard deviation of its logarithm
    SLOT_S = 720.0
    SPIKE_BPS = 6.0  # the spike size of the shipped forecasts
    SPIKE_SHARE = 0.076  # of the time at or above SPIKE_BPS. More updates come in spikes: of rows, the share is larger

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._slow = OrnsteinUhlenbeck.drawn(self.SLOW_S, self.SLOW_SD, rng)
        self._fast = OrnsteinUhlenbeck.drawn(self.FAST_S, self.FAST_SD, rng)
        self._second = 0
        self._slot = 0  # of the next spell
        self._start_s = self._next_start_s()
        self._stress_s = 0.0
        self._spell = Spell(0.0, 0.0, 0.0)  # the current or last one; here none
        self._squares = np.zeros(WINDOW_S // STEP_S - 1)

    def block(self) -> NDArray[np.float64]:
        """Relative volatility of each second, (BLOCK_S,)."""
        if self._start_s < self._second + BLOCK_S:
            self._spell = self._next_spell()
        slow, fast = self._slow.path(self._rng, BLOCK_S), self._fast.path(self._rng, BLOCK_S)
        variance = np.exp(2 * np.add(slow, fast))
        seconds = self._second + np.arange(BLOCK_S, dtype=np.float64)
        variance += self._spell.variance(seconds)
        self._second += BLOCK_S
        return np.asarray(np.sqrt(variance), np.float64)

    def release(self, returns: NDArray[np.float64]) -> None:
        """Releases stress by the log returns of the last block, over STEP_S each (BLOCK_S / STEP_S,)."""
        squares = np.concatenate([self._squares, np.square(returns)])
        realized = np.lib.stride_tricks.sliding_window_view(squares, WINDOW_S // STEP_S).sum(axis=1)
        spikes = np.count_nonzero(realized >= (self.SPIKE_BPS / 1e4) ** 2)
        self._stress_s -= STEP_S * float(spikes)
        self._squares = squares[len(returns) :]

    def _next_spell(self) -> Spell:
        self._stress_s += self.SPIKE_SHARE * self.SLOT_S
        hold_s = min(max(self._stress_s - AFTERMATH_S, 0.0), MAX_HOLD_S)
        spell = Spell(self._start_s, hold_s, self.HEIGHT * math.exp(self.HEIGHT_SD * self._rng.standard_normal()))
        self._slot += 1
        self._start_s = self._next_start_s()
        return spell

    def _next_start_s(self) -> float:
        """In the first half of the next slot, so that each spell is over before the next spell starts."""
        return self.SLOT_S * (self._slot + 0.5 * float(self._rng.random()))
