"""The ratio of two figures that were measured in turns, with an interval that assumes no distribution."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from math import comb

import msgspec

CONFIDENCE = 0.95


class Paired(msgspec.Struct, frozen=True):
    """The median of the rounds' ratios, and the interval that holds the true median.

    confidence: the probability of that. It stays below CONFIDENCE where the rounds are fewer than six.
    """

    ratio: float
    low: float
    high: float
    confidence: float

    def __str__(self) -> str:
        return f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """Of figures by round: those of one round were measured next to each other.

    The interval is between two order statistics of the ratios, of which the sign test says how often they enclose
    the median (David and Nagaraja, Order Statistics, section 7.1): the narrowest that reaches CONFIDENCE, and the
    range where none does.
    """
    ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
    rounds, dropped = len(ratios), 0
    while 2 * (dropped + 1) < rounds and _confidence(rounds, dropped + 1) >= CONFIDENCE:
        dropped += 1
    return Paired(
        statistics.median(ratios), ratios[dropped], ratios[rounds - 1 - dropped], _confidence(rounds, dropped)
    )


def _confidence(rounds: int, dropped: int) -> float:
    """That the median of the population lies within `rounds` values but for `dropped` at either end."""
    outside: float = sum(comb(rounds, below) for below in range(dropped + 1)) / 2**rounds
    return max(0.0, 1 - 2 * outside)
