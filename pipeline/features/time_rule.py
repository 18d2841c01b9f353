"""Ingest's time rule, for ticks that other programs wrote to ticks.raw.

A tick far in the future would make every later tick of its product late. Ingest keeps such ticks off the topic; other
programs may not. The rule uses the record alone, not the clock, so a restart decides the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.features.columns import TICK, TickColumns
from pipeline.features.engine import NO_TIME
from pipeline.feed.gate import MAX_TIME_JUMP_NS, is_current
from pipeline.records import DeadReason, Gap, Record, Tick

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """A tick that is not used. reason: of ticks.dead; None: the tick is late ("time_jumped_back")."""

    index: int
    reason: DeadReason | None
    detail: str


class TimeRule:
    """Judges the ticks of a partition in order.

    max_future_ns: a tick further ahead of its ingest time is dead; 0: no check.
    """

    def __init__(self, max_future_ns: int) -> None:
        self._max_future_ns = max_future_ns
        # Product code -> event time and sequence number of its last tick, if that tick was set aside for a time
        # more than MAX_TIME_JUMP_NS away. The next tick decides whether the product's time did jump.
        self.suspects: dict[int, tuple[int, int]] = {}

    def holds(self, columns: TickColumns, last_ns: NDArray[np.int64]) -> bool:
        """Whether all ticks pass, by a few comparisons of whole columns; False: `judge` decides.

        last_ns: (n,) event time of the last tick used of each record's product, or NO_TIME.
        """
        if self.suspects:
            return False
        ticks = columns.kind == TICK
        times, ingested = columns.event_time_ns[ticks], columns.ingest_time_ns[ticks]
        if not len(times):
            return True
        if self._max_future_ns and ((ingested > 0) & (times - ingested > self._max_future_ns)).any():
            return False
        last = last_ns[ticks]
        latest = max(int(times.max()), int(last.max()))
        known = last[last != NO_TIME]
        earliest = min(int(times.min()), int(known.min())) if len(known) else int(times.min())
        return latest - earliest <= MAX_TIME_JUMP_NS

    def judge(
        self, records: Sequence[Record], columns: TickColumns, last_ns: NDArray[np.int64]
    ) -> tuple[list[Refusal], dict[int, Gap]]:
        """The ticks that are not used, and the gaps to insert: index of the tick after it -> gap."""
        last: dict[int, int] = {}
        refusals: list[Refusal] = []
        gaps: dict[int, Gap] = {}
        for index, (record, code) in enumerate(zip(records, columns.product.tolist(), strict=True)):
            if isinstance(record, Gap):
                last[code] = NO_TIME
                self.suspects.pop(code, None)
                continue
            time_ns, before_ns = record.event_time_ns, last.get(code, int(last_ns[index]))
            if self._ahead_of_ingest(record):
                refusals.append(Refusal(index, "time_in_future", self._ahead_detail(record)))
            elif before_ns == NO_TIME or abs(time_ns - before_ns) <= MAX_TIME_JUMP_NS or is_current(record, before_ns):
                last[code] = max(time_ns, before_ns)
                self.suspects.pop(code, None)
            elif self._confirmed(code, record):
                last[code] = time_ns
                gaps[index] = Gap(record.product_id, time_ns, record.ingest_time_ns, "clock", 1, record.venue)
            else:
                self.suspects[code] = time_ns, record.sequence_num
                refusals.append(_jump(index, record, before_ns))
        return refusals, gaps

    def applied(
        self, records: Sequence[Record], columns: TickColumns, last_ns: NDArray[np.int64]
    ) -> tuple[list[tuple[int, Record]], list[Refusal]]:
        """The records for the engine, each with its index, and the rest. A gap has the index of the tick after it."""
        refusals, gaps = self.judge(records, columns, last_ns)
        refused = {refusal.index for refusal in refusals}
        left: list[tuple[int, Record]] = []
        for index, record in enumerate(records):
            if index in gaps:
                left.append((index, gaps[index]))
            if index not in refused:
                left.append((index, record))
        return left, refusals

    def _ahead_of_ingest(self, tick: Tick) -> bool:
        ahead_ns = tick.event_time_ns - tick.ingest_time_ns
        return bool(self._max_future_ns and tick.ingest_time_ns and ahead_ns > self._max_future_ns)

    def _ahead_detail(self, tick: Tick) -> str:
        ahead_s = (tick.event_time_ns - tick.ingest_time_ns) / NS_PER_S
        expected_s = self._max_future_ns / NS_PER_S
        return f"event_time_ns: {ahead_s:.3f} s ahead of ingest_time_ns, expected at most {expected_s:g} s"

    def _confirmed(self, code: int, tick: Tick) -> bool:
        """Whether the tick set aside before agrees, so that the product's time did jump."""
        suspect = self.suspects.pop(code, None)
        if suspect is None or suspect == (tick.event_time_ns, tick.sequence_num):
            return False  # ticks of one message share time and number, so they do not confirm each other
        return 0 <= tick.event_time_ns - suspect[0] <= MAX_TIME_JUMP_NS


def _jump(index: int, tick: Tick, last_ns: int) -> Refusal:
    if tick.event_time_ns < last_ns:
        return Refusal(index, None, "")
    bound_s = MAX_TIME_JUMP_NS // NS_PER_S
    expected = f"at most {bound_s} s after the product's last tick at {last_ns}"
    detail = f"event_time_ns: expected {expected}, got {tick.event_time_ns}"
    return Refusal(index, "time_jumped_ahead", detail)
