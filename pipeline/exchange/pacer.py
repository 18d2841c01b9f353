"""When each message is due: event time mapped to the wall clock at a speed, without drift."""

from __future__ import annotations

from math import isinf


class Pacer:
    """Each message is due at anchor + (event time - anchor's event time) / speed, so delays never add up."""

    def __init__(self, speed: float, fast_forward_s: float = 0.0) -> None:
        """speed: 1 is real time, N is N times as fast, infinity is at once.

        fast_forward_s: so much event time from the first message on is due at once.
        """
        self._speed = speed
        self._fast_forward_ns = round(fast_forward_s * 1e9)
        self._anchor: tuple[int, float] | None = None

    def reset(self) -> None:
        """Starts anew from the next message: pauses, and time that a recording left out, are not waited for."""
        self._anchor = None

    def delay_s(self, event_time_ns: int | None, now_s: float) -> float:
        """How long to wait with a message; zero or less: send it now. now_s: a monotonic clock."""
        if event_time_ns is None or isinf(self._speed):
            return 0.0
        if self._anchor is None:
            self._anchor = event_time_ns + self._fast_forward_ns, now_s
            self._fast_forward_ns = 0
        anchor_ns, anchor_s = self._anchor
        return anchor_s + (event_time_ns - anchor_ns) / 1e9 / self._speed - now_s
