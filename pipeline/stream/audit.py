"""Reads the topics for `volcast check`, so that a record that is only on its way is not taken for a lost one.

- Reading begins with ticks.raw last: each row of its first record is then behind the other positions.
- What the worker committed is read first, then the topics as far as they had been written by then. A commit marks the
  partitions of its transaction one after another, so its rows may become readable after its offsets.
- Retention deletes topics apart. A record of ticks.raw that is older than the oldest record of an output topic may have
  a row that Kafka has deleted, so it is not judged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from confluent_kafka import Consumer, Message, TopicPartition

from common.config import KafkaConfig
from pipeline.stream.kafka import committed, consume_batch, make_consumer, offsets_at, partitions_of, watermarks
from pipeline.stream.marker import from_metadata
from pipeline.stream.reconcile import Progress

BATCH_MESSAGES = 1000
# The last record of a partition may be the marker of a transaction, which no consumer sees.
SETTLED_S = 1.0
# A transaction of a worker that died ends after 10 s, and up to 10 s later on some brokers (transactions.py).
OPEN_TRANSACTIONS_S = 25.0
# Clocks of the programs that write the topics may differ by so much.
CLOCK_SKEW_MS = 60_000

Partition = tuple[str, int]
Show = Callable[[Message], None]


@dataclass(slots=True)
class Standing:
    """How far the worker's group is on ticks.raw."""

    lag: int | None = None  # records that are not committed; None: the group never committed
    progress: dict[int, Progress] = field(default_factory=dict)  # by partition
    # Partition -> first offset left, and how many records before it Kafka deleted unread; 0: unknown.
    lost: dict[int, tuple[int, int]] = field(default_factory=dict)


class TopicReader:
    """Reads the committed messages of all topics, from the next ones on or from the oldest.

    Raises UnavailableError if a topic is missing or the broker does not answer.
    """

    def __init__(self, config: KafkaConfig, *, from_start: bool) -> None:
        self._config = config
        self._consumer = make_consumer(config, "volcast-check")
        # Of all records that were written, also those of open transactions.
        self._ends = make_consumer(config, "volcast-check", **{"isolation.level": "read_uncommitted"})
        topics = config.topics
        self._outputs = topics.features, topics.predictions, topics.late, topics.dead
        positions: list[TopicPartition] = []
        for topic in (*self._outputs, topics.raw):
            for number in partitions_of(self._consumer, topic, config.timeout_s):
                low, high = self._bounds(self._consumer, (topic, number))
                positions.append(TopicPartition(topic, number, low if from_start else high))
        self.first = {each.partition: each.offset for each in positions if each.topic == topics.raw}
        self._consumer.assign(positions)
        self._partitions = [(each.topic, each.partition) for each in positions]

    def close(self) -> None:
        self._consumer.close()
        self._ends.close()

    def read_for(self, duration_s: float, show: Show, stop: threading.Event) -> None:
        """Shows each message that can be read within the time."""
        ends_s = time.monotonic() + duration_s
        while not stop.is_set() and (left_s := ends_s - time.monotonic()) > 0:
            self._read(show, min(0.1, left_s))

    def read_to_end(self, show: Show, stop: threading.Event) -> dict[Partition, int]:
        """Shows all that is written by now. Returns partitions with records that cannot be read yet, because a
        transaction stays open, and the number of such records.
        """
        targets = {partition: self._bounds(self._ends, partition)[1] for partition in self._partitions}
        last_s = time.monotonic()
        while targets and not stop.is_set():
            if self._read(show, 0.1):
                last_s = time.monotonic()
            for each in self._consumer.position(self._consumer.assignment()):
                if each.offset >= targets.get((each.topic, each.partition), 0):
                    targets.pop((each.topic, each.partition), None)
            idle_s = time.monotonic() - last_s
            if idle_s >= SETTLED_S:
                targets = {one: end for one, end in targets.items() if self._bounds(self._consumer, one)[1] < end}
            if idle_s >= OPEN_TRANSACTIONS_S:
                break
        return {one: end - self._bounds(self._consumer, one)[1] for one, end in targets.items()}

    def standing(self, group_id: str) -> Standing:
        """How far the worker's group is now. Call it before `read_to_end`."""
        group = make_consumer(self._config, group_id)
        raw = [TopicPartition(self._config.topics.raw, number) for number in self.first]
        try:
            known = [each for each in committed(group, raw, OPEN_TRANSACTIONS_S) if each.offset >= 0]
        finally:
            group.close()
        standing = Standing(lag=0 if known else None)
        for each in known:
            number, offset = each.partition, each.offset
            low, high = self._bounds(self._ends, (each.topic, number))
            standing.lag = (standing.lag or 0) + max(0, high - max(offset, low))
            marker = from_metadata(each.metadata, offset)
            if offset < low:
                standing.lost[number] = low, low - offset
            elif marker is not None and marker.broken_at >= max(self.first[number], 1):
                standing.lost[number] = marker.broken_at, 0
            if marker is not None:  # else the commit of another program
                standing.progress[number] = Progress(offset, marker.owed_from)
        return standing

    def judged_from(self) -> dict[int, int]:
        """Partition of ticks.raw -> first offset all of whose outputs are still there."""
        raw = self._config.topics.raw
        lows = {number: self._bounds(self._ends, (raw, number))[0] for number in self.first}
        since_ms = self._outputs_since_ms()
        if since_ms is not None:
            times = [TopicPartition(raw, number, since_ms + CLOCK_SKEW_MS) for number in self.first]
            for each in offsets_at(self._ends, times, self._config.timeout_s):
                end = self._bounds(self._ends, (raw, each.partition))[1]
                lows[each.partition] = max(lows[each.partition], each.offset if each.offset >= 0 else end)
        return {number: max(low, self.first[number]) for number, low in lows.items()}

    def _outputs_since_ms(self) -> int | None:
        """Time of the youngest first record of output partitions that retention has cut; None if it has cut none."""
        cut = [
            TopicPartition(topic, number, low)
            for topic, number in self._partitions
            if topic in self._outputs and (low := self._bounds(self._ends, (topic, number))[0]) > 0
        ]
        if not cut:
            return None
        firsts: dict[Partition, int] = {}
        reader = make_consumer(self._config, "volcast-check")
        try:
            reader.assign(cut)
            last_s = time.monotonic()
            while len(firsts) < len(cut) and time.monotonic() - last_s < SETTLED_S:
                for message in consume_batch(reader, BATCH_MESSAGES, 0.1):
                    place = message.topic() or "", message.partition() or 0
                    if place not in firsts:
                        firsts[place] = message.timestamp()[1]
                        last_s = time.monotonic()
                        reader.pause([TopicPartition(*place)])
        finally:
            reader.close()
        return max(firsts.values()) if len(firsts) == len(cut) else time.time_ns() // 1_000_000

    def _read(self, show: Show, timeout_s: float) -> int:
        messages = consume_batch(self._consumer, BATCH_MESSAGES, timeout_s)
        for message in messages:
            show(message)
        return len(messages)

    def _bounds(self, consumer: Consumer, partition: Partition) -> tuple[int, int]:
        return watermarks(consumer, TopicPartition(*partition), self._config.timeout_s)
