"""Decoded records onto their topics: ticks and gaps, late ticks, dead letters. Each is counted by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from common.config import Topics
from pipeline.records import DeadLetter, Gap, LateTick, Tick, encode
from pipeline.stream.kafka import Sink

MAX_HOLES = 1000  # told one by one; all are counted


@dataclass(frozen=True, slots=True)
class Hole:
    """A gap as a span of time: after one tick of a product, until the next."""

    product_id: str
    after_ns: int
    until_ns: int
    reason: str
    missed: int


@dataclass(slots=True)
class RecordCounts:
    """How many records went where; the sum of all is the number of records seen."""

    ticks: Counter[str] = field(default_factory=Counter)  # by product
    gaps: Counter[str] = field(default_factory=Counter)  # by reason, as are the next two
    late: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)

    def totals(self) -> dict[str, int]:
        return {
            "ticks": self.ticks.total(),
            "gaps": self.gaps.total(),
            "late": self.late.total(),
            "dead": self.dead.total(),
        }

    def as_json(self) -> dict[str, Any]:
        """Totals, and the counts by product and reason behind them."""
        return {
            **self.totals(),
            "ticks_by_product": dict(self.ticks),
            "gaps_by_reason": dict(self.gaps),
            "late_by_reason": dict(self.late),
            "dead_by_reason": dict(self.dead),
        }


class Publisher:
    """Sends records to ticks.raw, ticks.late and ticks.dead, and counts them.

    resumes: the topic holds records of an earlier run. What the exchange sent between the two is not on
    it, so each product begins with a gap (reason "reconnect").
    """

    def __init__(self, sink: Sink, topics: Topics, *, resumes: bool = False) -> None:
        self._sink = sink
        self._topics = topics
        self._resumes = resumes
        self._begun: set[str] = set()
        self.counts = RecordCounts()
        self._last_tick_ns: dict[str, int] = {}
        self.holes: list[Hole] = []
        self._open: dict[str, list[int]] = {}  # product -> holes that its next tick ends
        self.published = 0  # records on ticks.raw: what a worker has to read to be through

    def publish(self, records: Iterable[Tick | Gap | LateTick | DeadLetter]) -> None:
        """Queues the records in order. Raises UnavailableError once Kafka has refused one."""
        counts, topics, send = self.counts, self._topics, self._sink.send
        for record in records:
            if isinstance(record, Tick):
                if record.product_id not in self._begun:
                    self._begin(record)
                counts.ticks[record.product_id] += 1
                self._last_tick_ns[record.product_id] = record.event_time_ns
                if record.product_id in self._open:
                    self._end_holes(record)
                self.published += 1
                send(topics.raw, record.product_id.encode(), encode(record))
            elif isinstance(record, Gap):
                self._publish_gap(record)
            elif isinstance(record, LateTick):
                counts.late[record.reason] += 1
                send(topics.late, record.tick.product_id.encode(), encode(record))
            else:
                counts.dead[record.reason] += 1
                send(topics.dead, record.source.encode(), encode(record))

    def _begin(self, first: Tick) -> None:
        if self._resumes:
            self._publish_gap(Gap(first.product_id, first.event_time_ns, first.ingest_time_ns, "reconnect", 0))
        self._begun.add(first.product_id)

    def _publish_gap(self, gap: Gap) -> None:
        self._begun.add(gap.product_id)
        self.published += 1
        self._sink.send(self._topics.raw, gap.product_id.encode(), encode(gap))
        self.counts.gaps[gap.reason] += 1
        after_ns = self._last_tick_ns.get(gap.product_id)
        if after_ns is not None and len(self.holes) < MAX_HOLES:
            self._open.setdefault(gap.product_id, []).append(len(self.holes))
            self.holes.append(Hole(gap.product_id, after_ns, gap.event_time_ns, gap.reason, gap.missed))

    def _end_holes(self, tick: Tick) -> None:
        # The gap's own time is that of the message that showed it, whose tick may have been set aside.
        for number in self._open.pop(tick.product_id):
            self.holes[number] = replace(self.holes[number], until_ns=tick.event_time_ns)
