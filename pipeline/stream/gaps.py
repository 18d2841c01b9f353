"""The gaps of ticks.raw by name: a core that is shown records in the order of each partition."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from pipeline.records import Gap, Record, record_key

MAX_SPANS = 10_000  # gaps that are kept by name; the rest are counted
RETENTION = "retention"  # Kafka deleted records before the worker read them; no record of ticks.raw says so


class Place(msgspec.Struct, frozen=True):
    """A tick on ticks.raw."""

    offset: int
    sequence_num: int  # of the message on its connection
    event_time_ns: int


class GapSpan(msgspec.Struct):
    """A gap, and the product's ticks on both sides of it."""

    venue: str  # "": every venue of the partition, as the product
    product_id: str
    reason: str
    missed: int  # messages lost on the connection, over all products; 0: unknown
    event_time_ns: int  # of the message that revealed the gap; 0: unknown
    partition: int
    offset: int  # of the gap; for retention, of the first record after it
    after: Place | None = None  # None: the records shown begin with the gap
    until: Place | None = None  # None: no tick followed yet


@dataclass
class GapSpans:
    """Collects the gaps. `unnamed`: how many exceeded MAX_SPANS."""

    spans: list[GapSpan] = field(default_factory=list)
    unnamed: int = 0
    _newest: dict[tuple[int, str], Place] = field(default_factory=dict)  # partition and key of a product -> last tick
    _open: dict[tuple[int, str], list[GapSpan]] = field(default_factory=dict)

    def take(self, record: Record, partition: int, offset: int) -> None:
        key = partition, record_key(record.venue, record.product_id)
        if not isinstance(record, Gap):
            place = Place(offset, record.sequence_num, record.event_time_ns)
            self._newest[key] = place
            for span in self._open.pop(key, ()):
                span.until = place
            return
        if len(self.spans) >= MAX_SPANS:
            self.unnamed += 1
            return
        span = GapSpan(
            venue=record.venue,
            product_id=record.product_id,
            reason=record.reason,
            missed=record.missed,
            event_time_ns=record.event_time_ns,
            partition=partition,
            offset=offset,
            after=self._newest.get(key),
        )
        self.spans.append(span)
        self._open.setdefault(key, []).append(span)

    def lost(self, partition: int, offset: int, count: int) -> None:
        """Kafka deleted records before `offset` that the worker had not read. count: how many; 0: unknown."""
        self.spans.append(GapSpan("", "", RETENTION, count, 0, partition, offset))
