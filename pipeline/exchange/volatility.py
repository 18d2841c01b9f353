"""Volatility of the simulated market, second by second: calm that varies slowly, and bursts.

- Calm: log volatility is the sum of two Ornstein-Uhlenbeck processes, slow (half an hour) and fast (a minute): the
  two-factor form of stochastic volatility (Chernov, Gallant, Ghysels and Tauchen, 2003, "Alternative models for stock
  price dynamics", J. Econometrics 116).
- Bursts: each burst starts with a jump of the price and lifts volatility for about half a minute. Bursts arrive as a
  self-correcting point process, the stress-release model (Isham and Westcott, 1979, "A self-correcting point process",
  Stochastic Processes and their Applications 8; Vere-Jones, 1978, J. Physics of the Earth 26): stress grows with time,
  the hazard of a burst is exponential in the stress, and a burst releases stress in proportion to its length.

A Poisson or self-exciting process of bursts makes some hours all calm and others all turmoil. The number of bursts of a
self-correcting process has a bounded variance, so each hour has its share of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK_S = 60


class Burst(NamedTuple):
    """The start of a burst."""

    second: int  # of the block
    jump_bps: float  # log return at once, signed


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


class Volatility:
    """Volatility relative to its calm level, and the bursts, one block of BLOCK_S seconds after another."""

    SLOW_S, SLOW_SD = 1800.0, 0.12
    FAST_S, FAST_SD = 60.0, 0.20
    DECAY_S = 20.0  # of the lift that a burst gives to volatility
    LIFT = 6.0  # median lift, relative to the calm level
    LIFT_SD = 0.2  # of its logarithm
    MIN_JUMP_BPS, MEAN_JUMP_BPS = 3.0, 3.7  # size of the jump at the start of a burst: a shifted exponential
    SHARE = 0.134  # of the time that belongs to bursts: the rate at which stress grows
    RELEASE_S = 72.0  # stress that a median burst releases: seconds whose next minute meets the burst
    HAZARD_SCALE_S = 8.0  # stress that raises the hazard by a factor e; smaller: more regular bursts

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._slow = OrnsteinUhlenbeck.drawn(self.SLOW_S, self.SLOW_SD, rng)
        self._fast = OrnsteinUhlenbeck.drawn(self.FAST_S, self.FAST_SD, rng)
        self._lift = 0.0
        # Anywhere between two bursts.
        self._stress_s = -self.RELEASE_S * float(rng.random())

    def block(self) -> tuple[NDArray[np.float64], list[Burst]]:
        """Relative volatility (BLOCK_S,), and the bursts that begin in the block."""
        slow, fast = self._slow.path(self._rng, BLOCK_S), self._fast.path(self._rng, BLOCK_S)
        uniform = self._rng.random(BLOCK_S).tolist()
        lifts = self._rng.lognormal(math.log(self.LIFT), self.LIFT_SD, BLOCK_S).tolist()
        jumps = self._jumps(BLOCK_S).tolist()
        lift_keep = math.exp(-1 / self.DECAY_S)
        levels, bursts = np.empty(BLOCK_S), []
        for second in range(BLOCK_S):
            self._lift *= lift_keep
            self._stress_s += self.SHARE
            if uniform[second] < self._hazard():
                bursts.append(Burst(second, jumps[second]))
                self._lift += lifts[second]
                self._stress_s -= self.RELEASE_S
            levels[second] = math.exp(slow[second] + fast[second]) * (1.0 + self._lift)
        return levels, bursts

    def _hazard(self) -> float:
        """Of a burst in this second. Stress 0 is where the next burst is due."""
        return self.SHARE / self.HAZARD_SCALE_S * math.exp(min(self._stress_s / self.HAZARD_SCALE_S, 10.0))

    def _jumps(self, count: int) -> NDArray[np.float64]:
        """Log returns in bps (count,), up and down alike."""
        sizes = self.MIN_JUMP_BPS + self._rng.exponential(self.MEAN_JUMP_BPS - self.MIN_JUMP_BPS, count)
        return np.where(self._rng.random(count) < 0.5, -sizes, sizes)
