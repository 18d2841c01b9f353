"""A sink for outages of Kafka: while no broker accepts messages, they wait on disk, and follow in order.

Normally messages go straight to the producer. If none is acknowledged for STALL_S, or MAX_QUEUED wait in the
producer, later messages go to the spool. Once the producer has delivered all it holds, the spool follows in
batches, each acknowledged before the next batch is read. So the order is kept. If the process is killed, the next
process learns from the end of the topic which messages of the last batch were delivered (`note_delivered`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from common.config import KafkaConfig, Topics
from common.errors import UnavailableError
from common.log import get_logger
from common.losses import count_not_stored
from pipeline.records import NOT_DECODED, Gap, Tick, decode_record, encode
from pipeline.stream.kafka import Sent, Sink
from pipeline.stream.spool import Spool, SpooledMessage

STALL_S = 1.0  # without an acknowledgement: Kafka is unavailable. A broker restart takes 2 s, a slow request 0.1 s
MAX_QUEUED = 100_000  # messages in the producer's memory; a kill loses them, and `volcast replay --missing` fills them
BATCH = 5_000  # messages that leave the spool at once
LAST_BATCH_S = 0.2  # how long the end of the spool is waited for; 5,000 messages take 0.05 s
STORE = "backlog"  # its name in volcast_not_stored_total

# Messages wait for as long as it takes: the producer must not give them up by itself.
PRODUCER_SETTINGS = {"message.timeout.ms": 0}


class QueuedSink(Protocol):
    """The methods of Sink that the backlog calls."""

    @property
    def queued(self) -> int: ...
    def send(self, topic: str, key: bytes, value: bytes) -> None: ...
    def poll(self) -> None: ...
    def flush(self, timeout_s: float = ...) -> None: ...
    def take_back(self) -> list[Sent]: ...
    def close(self) -> None: ...


def backlog_directory(directory: Path, config: KafkaConfig) -> Path:
    """The folder of a Kafka. Messages for another Kafka must not be delivered to it."""
    name = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in config.bootstrap_servers)
    return directory / name[:100]


class BacklogSink:
    """In place of pipeline.stream.kafka.Sink. Call `poll` several times a second: it sends what is on disk."""

    def __init__(
        self,
        sink: QueuedSink,
        topics: Topics,
        directory: Path,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self._topics = topics
        self._clock = clock
        self._spool = Spool(directory, max_bytes)
        self._spooling = self._spool.messages > 0  # those of an earlier run come first
        self._in_flight: tuple[int, tuple[int, int]] | None = None  # messages of a batch, position after it
        self._delivered: frozenset[bytes] = frozenset()  # see note_delivered
        self._dropped: Counter[bytes] = Counter()  # dropped messages of each key since its last stored message
        self._unpolled = 0
        self._sent = 0
        self._acknowledged = 0
        self._progress_s = clock()
        self._failing = False
        self.lost = 0
        count_not_stored(STORE, 0)
        if self._spooling:
            get_logger().info("backlog of an earlier run is delivered first", messages=self._spool.messages)
        if self._spool.damaged_bytes:
            get_logger().warning("backlog of an earlier run is cut off", lost_bytes=self._spool.damaged_bytes)

    @classmethod
    def open(cls, config: KafkaConfig, directory: Path, max_bytes: int) -> BacklogSink:
        """On a producer of its own. Raises UnavailableError if another process uses the folder."""
        sink = Sink(config, PRODUCER_SETTINGS)
        return cls(sink, config.topics, backlog_directory(directory, config), max_bytes)

    @property
    def waiting(self) -> int:
        """Messages on disk."""
        return self._spool.messages

    def waiting_messages(self) -> Iterator[SpooledMessage]:
        """Messages on disk, oldest first."""
        return self._spool.waiting()

    def note_delivered(self, values: frozenset[bytes]) -> None:
        """Takes the records at the end of ticks.raw. Messages on disk that are among them are not sent again.

        Without it, a killed process repeats the batch that it was delivering. A gap in the batch then lets the worker
        take the ticks behind the gap a second time.
        """
        if self._spooling:
            self._delivered = values

    def put_first(self, messages: Sequence[tuple[str, bytes, bytes]]) -> None:
        """Puts messages (topic, key, value) in front of those on disk."""
        try:
            self._spool.prepend([SpooledMessage(*message) for message in messages])
        except OSError as error:
            get_logger().warning("messages cannot be put in front of the backlog", error=error.strerror or str(error))

    def send(self, topic: str, key: bytes, value: bytes) -> None:
        """Sends or stores a message. Raises UnavailableError if Kafka refused a message for good."""
        if self._dropped and topic == self._topics.raw and key in self._dropped:
            self._put_gap(topic, key, value)
        self._put(topic, key, value)
        self._unpolled += 1
        if self._unpolled >= 1000:
            self.poll()

    def poll(self) -> None:
        """Watches the producer, and sends what is on disk. Raises UnavailableError if Kafka refused a message."""
        self._unpolled = 0
        self._sink.poll()
        self._watch()
        if self._spooling and self._sink.queued == 0:
            self._advance()

    def flush(self, timeout_s: float = 35.0) -> None:
        """Waits until everything is delivered.

        Raises UnavailableError if messages remain: those on disk are delivered by the next run.
        """
        deadline = self._clock() + timeout_s
        while self._spooling and self._clock() < deadline:
            self.poll()
            if self._spooling and self._sink.queued:
                time.sleep(0.005)
        if not self._spooling:
            self._flush_producer(max(0.1, deadline - self._clock()))
            return
        self._take_back()
        raise UnavailableError(
            f"kafka: {self._spool.messages:,} messages are not delivered; they wait on disk, and the next "
            "`volcast ingest` delivers them first"
        )

    def _flush_producer(self, timeout_s: float) -> None:
        if not self._is_delivered_within(timeout_s):
            self._spooling = True
            self.flush(0)

    def _take_back(self) -> None:
        """Moves messages from the producer's memory to disk, in front of later messages."""
        if self._in_flight is not None:
            return  # they are still in the spool
        messages = [SpooledMessage(*message) for message in self._sink.take_back()]
        try:
            self._spool.prepend(messages)
        except OSError as error:
            self.lost += len(messages)
            count_not_stored(STORE, len(messages))
            get_logger().error(
                "messages of the producer cannot be stored", messages=len(messages), error=error.strerror or str(error)
            )

    def close(self) -> None:
        self._sink.close()
        self._spool.close()

    def _forward(self, topic: str, key: bytes, value: bytes) -> None:
        self._sent += 1
        self._sink.send(topic, key, value)

    def _watch(self) -> None:
        """Notes progress; without any for STALL_S, later messages go to disk."""
        queued = self._sink.queued
        acknowledged = self._sent - queued
        now = self._clock()
        if queued == 0 or acknowledged > self._acknowledged:
            self._progress_s = now
        self._acknowledged = acknowledged
        if not self._spooling and (queued >= MAX_QUEUED or now - self._progress_s >= STALL_S):
            self._spooling = True
            get_logger().warning("Kafka takes no messages, they wait on disk", in_producer=queued)

    def _advance(self) -> None:
        """The batch before this one is delivered; sends the next one, or ends spooling."""
        self._release()
        batch, position = self._spool.read(BATCH)
        for message in batch:
            if message.topic != self._topics.raw or message.value not in self._delivered:
                self._forward(*message)
        if batch:
            self._in_flight = len(batch), position
        # Without this wait, live messages would keep the spool from becoming empty, and would all take its way.
        if len(batch) == self._spool.messages and self._is_delivered_within(LAST_BATCH_S):
            self._end_spooling()

    def _release(self) -> None:
        if self._in_flight is not None:
            self._spool.release(*self._in_flight)
            self._in_flight = None

    def _is_delivered_within(self, timeout_s: float) -> bool:
        """Waits for what the producer holds. Raises UnavailableError if Kafka refused a message."""
        try:
            self._sink.flush(timeout_s)
        except UnavailableError:
            if self._sink.queued == 0:
                raise
            return False
        return True

    def _end_spooling(self) -> None:
        self._release()
        self._spooling = False
        self._delivered = frozenset()
        get_logger().info("backlog delivered, messages go straight to Kafka", lost=self.lost)

    def _put(self, topic: str, key: bytes, value: bytes) -> None:
        """Sends or stores a message; counts it if the spool does not take it."""
        error = self._try(topic, key, value)
        if error is not None:
            self._drop(topic, key, error)
        elif self._failing:
            self._failing = False
            get_logger().info("the backlog takes messages again", lost=self.lost)

    def _try(self, topic: str, key: bytes, value: bytes) -> OSError | None:
        if not self._spooling:
            self._forward(topic, key, value)
            return None
        try:
            self._spool.append(SpooledMessage(topic, key, value))
        except OSError as error:
            return error
        return None

    def _put_gap(self, topic: str, key: bytes, value: bytes) -> None:
        """States in front of a record how many messages of its key were dropped before it."""
        gap = _gap_before(value, self._dropped[key])
        if gap is None or self._try(topic, key, encode(gap)) is None:
            del self._dropped[key]

    def _drop(self, topic: str, key: bytes, error: OSError) -> None:
        if topic == self._topics.raw:
            self._dropped[key] += 1
        self.lost += 1
        count_not_stored(STORE, 1)
        if not self._failing:
            self._failing = True
            get_logger().warning("the backlog takes no more messages", error=error.strerror or str(error))


def _gap_before(value: bytes, missed: int) -> Gap | None:
    """The gap in front of a record whose predecessors were dropped. None if the record is a gap itself."""
    try:
        record = decode_record(value)
    except NOT_DECODED:
        return None
    if not isinstance(record, Tick):
        return None
    return Gap(record.product_id, record.event_time_ns, record.ingest_time_ns, "backlog", missed, record.venue)
