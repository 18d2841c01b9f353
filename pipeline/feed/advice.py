"""Advice in a summary, for a recording whose counter shows gaps all the time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from pipeline.feed.protocol import Result
from pipeline.records import Gap, Tick

WINDOW_S = 60.0  # the shortest history after which a row is warm (core/1)
MIN_GAPS = 3  # fewer are losses
MAX_LATE_SHARE = 0.05  # more late ticks than this: the recording is not in order


def gap_advice(sequence_gaps: int, gap_distance_s: float) -> str:
    """Why no row is warm, and what to do; "" if the gaps are rare enough.

    sequence_gaps: gaps with reason "sequence" of one product.
    gap_distance_s: event time between two of them, on average.
    """
    if sequence_gaps < MIN_GAPS or gap_distance_s >= WINDOW_S:
        return ""
    return (
        f"sequence numbers jump every {gap_distance_s:.3g} s on average, and a row is warm only after {WINDOW_S:g} s "
        "without a gap. A recording without heartbeats, or of one product of a shared connection, lacks messages that "
        "took numbers. If nothing else is missing, find gaps by time: set ingest.gap_after_s, such as 30 "
        "(VOLCAST_INGEST__GAP_AFTER_S=30)"
    )


def order_advice(late_ticks: int, ticks: int) -> str:
    """What to do about a recording whose rows are not in order of time; "" if few are late."""
    if late_ticks <= MAX_LATE_SHARE * ticks:
        return ""
    return (
        f"{late_ticks:,} of {ticks:,} ticks are earlier than a tick of their product before them, and are not used. "
        "Sort the recording by time"
    )


class GapWatch:
    """Watches records on their way, for the advice on their gaps."""

    def __init__(self) -> None:
        self._first_ns: dict[str, int] = {}  # by product
        self._last_ns: dict[str, int] = {}
        self._gaps: Counter[str] = Counter()  # of reason "sequence"

    def watch(self, records: Iterable[Result]) -> Iterator[Result]:
        for record in records:
            self.see(record)
            yield record

    def see(self, record: Result) -> None:
        if isinstance(record, Tick):
            self._first_ns.setdefault(record.product_id, record.event_time_ns)
            self._last_ns[record.product_id] = record.event_time_ns
        elif isinstance(record, Gap) and record.reason == "sequence":
            self._gaps[record.product_id] += 1

    def advice(self) -> str:
        """The advice for the product with the most gaps."""
        if not self._gaps:
            return ""
        product, gaps = self._gaps.most_common(1)[0]
        span_ns = self._last_ns.get(product, 0) - self._first_ns.get(product, 0)
        return gap_advice(gaps, span_ns / 1e9 / gaps)
