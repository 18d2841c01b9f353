"""Decoded records onto their topics: ticks and gaps, late ticks, dead letters. Each is counted by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from common.config import Topics
from pipeline.records import DeadLetter, Gap, LateTick, Tick, encode, record_key
from pipeline.stream.backlog import BacklogSink
from pipeline.stream.kafka import Sink

MAX_HOLES = 1000  # that are listed; all are counted


@dataclass(frozen=True, slots=True)
class Hole:
    """A gap as a span of time, from a tick of a product to its next tick."""

    product_id: str
    after_ns: int
    until_ns: int
    reason: str
    missed: int
    venue: str = "coinbase"


@dataclass(slots=True)
class RecordCounts:
    """Numbers of records by topic and kind. Their sum is the number of records."""

    ticks: Counter[str] = field(default_factory=Counter)  # by product
    gaps: Counter[str] = field(default_factory=Counter)  # by reason, as are the next two
    late: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)

    def copy(self) -> RecordCounts:
        return RecordCounts(self.ticks.copy(), self.gaps.copy(), self.late.copy(), self.dead.copy())

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

    resumes: the topic holds records of an earlier run. Messages between the two runs are not on
    the topic, so each product begins with a gap (reason "reconnect").
    """

    def __init__(self, sink: Sink | BacklogSink, topics: Topics, *, resumes: bool = False) -> None:
        self._sink = sink
        self._topics = topics
        self._resumes = resumes
        self._begun: set[str] = set()  # keys, as in the next two
        self.counts = RecordCounts()
        self._last_tick_ns: dict[str, int] = {}
        self.holes: list[Hole] = []
        self._open: dict[str, list[int]] = {}  # key -> holes that its next tick ends
        self.published = 0  # records on ticks.raw: a worker that has read so many is done

    def publish(self, records: Iterable[Tick | Gap | LateTick | DeadLetter]) -> None:
        """Queues the records in order. Raises UnavailableError once Kafka has refused a record."""
        counts, topics, send = self.counts, self._topics, self._sink.send
        for record in records:
            if isinstance(record, Tick):
                key = record_key(record.venue, record.product_id)
                if key not in self._begun:
                    self._begin(record, key)
                counts.ticks[record.product_id] += 1
                self._last_tick_ns[key] = record.event_time_ns
                if key in self._open:
                    self._end_holes(record, key)
                self.published += 1
                send(topics.raw, key.encode(), encode(record))
            elif isinstance(record, Gap):
                self._publish_gap(record)
            elif isinstance(record, LateTick):
                counts.late[record.reason] += 1
                send(topics.late, record_key(record.tick.venue, record.tick.product_id).encode(), encode(record))
            else:
                counts.dead[record.reason] += 1
                send(topics.dead, record.source.encode(), encode(record))

    def _begin(self, first: Tick, key: str) -> None:
        if self._resumes:
            self._publish_gap(
                Gap(first.product_id, first.event_time_ns, first.ingest_time_ns, "reconnect", 0, first.venue)
            )
        self._begun.add(key)

    def _publish_gap(self, gap: Gap) -> None:
        key = record_key(gap.venue, gap.product_id)
        self._begun.add(key)
        self.published += 1
        self._sink.send(self._topics.raw, key.encode(), encode(gap))
        self.counts.gaps[gap.reason] += 1
        after_ns = self._last_tick_ns.get(key)
        if after_ns is not None and len(self.holes) < MAX_HOLES:
            self._open.setdefault(key, []).append(len(self.holes))
            self.holes.append(Hole(gap.product_id, after_ns, gap.event_time_ns, gap.reason, gap.missed, gap.venue))

    def _end_holes(self, tick: Tick, key: str) -> None:
        # The gap's own time is that of the message that showed it, whose tick may have been set aside.
        for number in self._open.pop(key):
            self.holes[number] = replace(self.holes[number], until_ns=tick.event_time_ns)
