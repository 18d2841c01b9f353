"""Volatility of the simulated market, second by second: it varies slowly and fast, and has lively spells.

- Log volatility has two Ornstein-Uhlenbeck processes, slow (half an hour) and fast (a minute): the two-factor form of
  stochastic volatility (Chernov, Gallant, Ghysels and Tauchen, 2003, "Alternative models for stock price dynamics",
  J. Econometrics 116).
- A lively spell adds a wave to log volatility, which rises and falls over some minutes. Spells arrive as a
  self-correcting point process, the stress-release model (Isham and Westcott, 1979, "A self-correcting point process",
  Stochastic Processes and their Applications 8; Vere-Jones, 1978, J. Physics of the Earth 26): stress grows with time,
  the hazard of a spell is exponential in the stress, and a spell releases stress.

A Poisson or self-exciting process of spells makes some hours all calm and others all turmoil. The number of spells of a
self-correcting process has a bounded variance, so each hour has its share of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK_S = 60


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
    """Volatility relative to its calm level, one block of BLOCK_S seconds after another."""

    SLOW_S, SLOW_SD = 1800.0, 0.02
    FAST_S, FAST_SD = 60.0, 0.03
    WAVE_S = 90.0  # from the start of a spell to its height
    HEIGHT, HEIGHT_SD = 1.9, 0.05  # of a wave of log volatility
    DISTANCE_S = 720.0  # mean time between the starts of spells
    HAZARD_SCALE_S = 40.0  # stress that raises the hazard by a factor e; smaller: more regular spells

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._slow = OrnsteinUhlenbeck.drawn(self.SLOW_S, self.SLOW_SD, rng)
        self._fast = OrnsteinUhlenbeck.drawn(self.FAST_S, self.FAST_SD, rng)
        # A wave is h * t / WAVE_S * exp(1 - t / WAVE_S): the output of two equal low-pass filters in a row.
        self._push, self._wave = 0.0, 0.0
        # Anywhere between two spells.
        self._stress_s = -self.DISTANCE_S * float(rng.random())

    def block(self) -> NDArray[np.float64]:
        """Relative volatility of each second, (BLOCK_S,)."""
        slow, fast = self._slow.path(self._rng, BLOCK_S), self._fast.path(self._rng, BLOCK_S)
        uniform = self._rng.random(BLOCK_S).tolist()
        heights = (self.HEIGHT + self.HEIGHT_SD * self._rng.standard_normal(BLOCK_S)).tolist()
        keep = math.exp(-1 / self.WAVE_S)
        logs = np.empty(BLOCK_S)
        for second in range(BLOCK_S):
            self._stress_s += 1.0
            if uniform[second] < self._hazard():
                self._push += math.e * heights[second]
                self._stress_s -= self.DISTANCE_S
            self._push *= keep
            self._wave += (self._push - self._wave) / self.WAVE_S
            logs[second] = slow[second] + fast[second] + self._wave
        return np.exp(logs)

    def _hazard(self) -> float:
        """Of a spell in this second. Stress 0 is when the next spell is due."""
        return math.exp(min(self._stress_s / self.HAZARD_SCALE_S, 10.0)) / self.HAZARD_SCALE_S
