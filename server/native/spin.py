"""A bounded spin: while calls arrive one by one, the event loop polls its sockets instead of sleeping.

If the loop sleeps, a caller with one call in flight waits twice as long for its response. With many calls in flight,
sleeping costs nothing, since calls queue meanwhile and form the next batch. Measured: with the spin on, 32 calls in
flight were answered in small batches, at half the rate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# Four calls of one row. More bytes within the time of a spin do not come from a single waiting caller.
MAX_SINGLE_CALLER_BYTES = 1024
# Spin if calls arrive within this many spin times of each other.
SPIN_GAP_FACTOR = 4


class Spinner:
    def __init__(self, loop: asyncio.AbstractEventLoop, now_ns: Callable[[], int], spin_ns: int) -> None:
        """spin_ns: how long the loop polls after a read; 0: never."""
        self._loop = loop
        self._now_ns = now_ns
        self.spin_ns = spin_ns
        self.spinning = False
        self.few_bytes = False  # few bytes have arrived recently: calls come one by one
        self._spin_until_ns = 0
        self._last_read_ns = 0
        self._window_began_ns = self._window_bytes = self._previous_window_bytes = 0

    def on_read(self, size: int, now_ns: int) -> None:
        """Called for each read. Spins if the last two reads were small and close in time."""
        spin_ns = self.spin_ns
        gap_ns, self._last_read_ns = now_ns - self._last_read_ns, now_ns
        if now_ns - self._window_began_ns > spin_ns:
            self._previous_window_bytes, self._window_bytes, self._window_began_ns = self._window_bytes, 0, now_ns
        self._window_bytes += size
        most = MAX_SINGLE_CALLER_BYTES
        self.few_bytes = self._window_bytes <= most and self._previous_window_bytes <= most
        if self.few_bytes and gap_ns < SPIN_GAP_FACTOR * spin_ns:
            self._spin_until_ns = now_ns + spin_ns
            if not self.spinning:
                self.spinning = True
                self._loop.call_soon(self._spin)
        else:
            self._spin_until_ns = 0

    def _spin(self) -> None:
        if self._now_ns() < self._spin_until_ns:
            self._loop.call_soon(self._spin)
        else:
            self.spinning = False
