"""How soon ingest may connect again: back-off, and the exchange's limits on requests. Without I/O."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable

from pipeline.feed.protocol import Allowance

FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 30.0
LASTED_S = 60.0  # a connection that was open for so long was good, even without a tick
# The exchange counts requests when they arrive. Without a margin, those of a quick line after a slow one are too many.
_MARGIN = 1.1


class Backoff:
    """Waits between attempts: doubling, capped, and random, so that clients do not return at once together."""

    def __init__(self) -> None:
        self._wait_s = FIRST_BACKOFF_S

    def reset(self) -> None:
        self._wait_s = FIRST_BACKOFF_S

    def next_s(self) -> float:
        wait_s = self._wait_s
        self._wait_s = min(wait_s * 2, MAX_BACKOFF_S)
        return wait_s * random.uniform(0.5, 1.0)


class RequestBudget:
    """Spreads requests so that no allowance is exceeded, over all connections."""

    def __init__(self, allowances: Iterable[Allowance]) -> None:
        self._windows = [
            (allowance.window_s * _MARGIN, deque[float](maxlen=allowance.requests)) for allowance in allowances
        ]

    def reserve_s(self, now_s: float) -> float:
        """How long the next request must wait. It counts as sent then."""
        at_s = now_s
        for window_s, times in self._windows:
            if len(times) == times.maxlen:
                at_s = max(at_s, times[0] + window_s)
        for _, times in self._windows:
            times.append(at_s)
        return at_s - now_s
