"""The ticks of a product that later predictions may refer to, in unbroken stretches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.problem.target import NS_PER_S, Target

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
        """A view, valid until the next change."""
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
        """Drops the first rows."""
        self._start += min(count, len(self))


class Stretch:
    """Ticks of a product without a gap. Outcomes are those of training, by the same function on the same mids."""

    def __init__(self, target: Target, features: int) -> None:
        self.dropped = 0  # ticks dropped before the first tick kept
        self.closed = False  # a gap follows
        self._target = target
        self._time_ns = Growing(np.int64)
        self._sequence = Growing(np.int64)
        self._mid = Growing(np.float64)
        self._features = Growing(np.float64, features)

    def __len__(self) -> int:
        """Ticks kept."""
        return len(self._time_ns)

    @property
    def end(self) -> int:
        """The number of the next tick."""
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
        self._time_ns.add(time_ns)
        self._sequence.add(sequence)
        self._mid.add(mid)
        self._features.add(features)

    def find(self, time_ns: int, sequence: int, first: int) -> int | None:
        """The number of the first such tick kept, from number `first` on."""
        times, sequences = self.time_ns, self._sequence.rows
        start = max(0, first - self.dropped)
        place = start + int(np.searchsorted(times[start:], time_ns, side="left"))
        while place < len(times) and times[place] == time_ns:
            if sequences[place] == sequence:
                return self.dropped + place
            place += 1
        return None

    def known_after(self, time_ns: int) -> bool:
        """Whether no later tick can change the outcome of a row at time_ns."""
        return self.closed or (len(self) > 0 and self.last_ns > self._last_point_ns(time_ns))

    def outcomes_bps(self, numbers: Sequence[int]) -> NDArray[np.float64]:
        """The outcome of ticks by number, ascending, in bps; NaN if the stretch ends before it is known."""
        places = np.array(numbers, np.int64) - self.dropped
        first = int(places[0])
        last = int(np.searchsorted(self.time_ns, self._last_point_ns(int(self.time_ns[places[-1]])), side="right"))
        window = slice(first, min(last + 1, len(self)))
        times = self.time_ns[window]
        outcomes = self._target.outcomes_bps(times, self._mid.rows[window], np.zeros(len(times), np.int64))
        return outcomes[places - first]

    def features_of(self, numbers: Sequence[int]) -> NDArray[np.float64]:
        return self._features.rows[np.array(numbers, np.int64) - self.dropped]

    def drop_before(self, number: int) -> int:
        """Drops ticks below a number, never the last tick. Returns how many."""
        count = max(0, min(number - self.dropped, len(self) - 1))
        for column in (self._time_ns, self._sequence, self._mid, self._features):
            column.drop(count)
        self.dropped += count
        return count

    def _last_point_ns(self, time_ns: int) -> int:
        """The last point of the grid that the outcome of a row at time_ns uses."""
        step_ns = self._target.step_s * NS_PER_S
        return -(-time_ns // step_ns) * step_ns + self._target.horizon_s * NS_PER_S
