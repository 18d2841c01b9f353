"""The ticks of a product that predictions may still ask about, in unbroken stretches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST_ROOM = 256


class Growing:
    """Rows that are added at one end and dropped at the other; both in O(1) amortised."""

    def __init__(self, dtype: type[np.generic], width: int | None = None) -> None:
        self._shape = () if width is None else (width,)
        self._rows = np.empty((FIRST_ROOM, *self._shape), dtype)
        self._start = 0
        self._stop = 0

    def __len__(self) -> int:
        return self._stop - self._start

    @property
    def rows(self) -> NDArray[Any]:
        """A view, good until the next change."""
        return self._rows[self._start : self._stop]

    def add(self, rows: NDArray[Any]) -> None:
        needed = len(self) + len(rows)
        if self._stop + len(rows) > len(self._rows):
            room = (
                self._rows
                if needed <= len(self._rows) // 2
                else np.empty((max(2 * needed, FIRST_ROOM), *self._shape), self._rows.dtype)
            )
            kept = len(self)
            room[:kept] = self._rows[self._start : self._stop]
            self._rows, self._start, self._stop = room, 0, kept
        self._rows[self._stop : self._stop + len(rows)] = rows
        self._stop += len(rows)

    def drop(self, count: int) -> None:
        """Drops the first ones."""
        self._start += min(count, len(self))


class Stretch:
    """Ticks of one product without a gap. The sum of squares runs from its first tick, as a label's does."""

    def __init__(self, features: int) -> None:
        self.dropped = 0  # ticks that were here before the first one kept
        self.closed = False  # a gap follows
        self._time_ns = Growing(np.int64)
        self._sequence = Growing(np.int64)
        self._running = Growing(np.float64)
        self._features = Growing(np.float64, features)
        self._last_log_mid = 0.0

    def __len__(self) -> int:
        """Ticks kept."""
        return len(self._time_ns)

    @property
    def end(self) -> int:
        """The number that the next tick will have."""
        return self.dropped + len(self)

    @property
    def last_ns(self) -> int:
        return int(self.time_ns[-1])

    @property
    def time_ns(self) -> NDArray[np.int64]:
        return self._time_ns.rows

    def add(
        self,
        time_ns: NDArray[np.int64],
        sequence: NDArray[np.int64],
        mid: NDArray[np.float64],
        features: NDArray[np.float64],
    ) -> None:
        """Ticks (n,), n > 0, in order; features (n, k)."""
        log_mid = np.log(mid)
        first, before = self.end == 0, 0.0 if self.end == 0 else float(self._running.rows[-1])
        squares = np.square(np.diff(log_mid, prepend=log_mid[0] if first else self._last_log_mid))
        # Added up one after the other, whatever the batches, as np.cumsum does over all of a recording.
        running = np.cumsum(np.concatenate([[before], squares]))[1:]
        self._last_log_mid = float(log_mid[-1])
        self._time_ns.add(time_ns)
        self._sequence.add(sequence)
        self._running.add(running)
        self._features.add(features)

    def find(self, time_ns: int, sequence: int, first: int) -> int | None:
        """The number of the first such tick that is `first` or later, of those kept."""
        times, sequences = self.time_ns, self._sequence.rows
        start = max(0, first - self.dropped)
        place = start + int(np.searchsorted(times[start:], time_ns, side="left"))
        while place < len(times) and times[place] == time_ns:
            if sequences[place] == sequence:
                return self.dropped + place
            place += 1
        return None

    def known_after(self, time_ns: int, horizon_ns: int) -> bool:
        """Whether all that will ever come in (time_ns, time_ns + horizon] is here."""
        return self.closed or (len(self) > 0 and self.last_ns > time_ns + horizon_ns)

    def volatility_after(self, numbers: Sequence[int], horizon_ns: int) -> NDArray[np.float64]:
        """Realized volatility over (t, t + horizon] of ticks by number; NaN if the stretch ends before.

        training/problem/labels.py has the formula.
        """
        times, running = self.time_ns, self._running.rows
        of = times[np.array(numbers, np.int64) - self.dropped]
        last_at_t = np.searchsorted(times, of, side="right") - 1
        last_in_window = np.searchsorted(times, of + horizon_ns, side="right") - 1
        future = np.sqrt(running[last_in_window] - running[last_at_t])
        return np.where(of + horizon_ns <= times[-1], future, np.nan)

    def features_of(self, numbers: Sequence[int]) -> NDArray[np.float64]:
        return self._features.rows[np.array(numbers, np.int64) - self.dropped]

    def drop_before(self, number: int) -> int:
        """Forgets ticks below a number, never the last one; says how many."""
        count = max(0, min(number - self.dropped, len(self) - 1))
        for column in (self._time_ns, self._sequence, self._running, self._features):
            column.drop(count)
        self.dropped += count
        return count
