"""The state of newly assigned partitions: snapshots, the ticks since, and rows without a prediction.

All of it comes from committed records, as of the committed offset. So it holds the bits of a worker that never
stopped, and it takes a bounded time: at most about MAX_REPLAY_RECORDS ticks are read again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import compress
from operator import not_

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from google.protobuf.message import DecodeError

from common.config import KafkaConfig
from common.errors import UnavailableError
from common.log import get_logger
from common.schema import FeatureSchema
from pipeline.features.columns import VenueProductCodes
from pipeline.stream.forecast import Rows
from pipeline.stream.kafka import make_consumer, watermarks
from pipeline.stream.kafka_errors import failure, goes_on, kafka_error, retrying
from pipeline.stream.marker import Marker, from_metadata
from pipeline.stream.partition import MAX_REPLAY_RECORDS, Partition
from pipeline.stream.snapshots import SnapshotReader
from pipeline.stream.transactions import Delivery
from volcast.v1 import FeatureRow

# A restart waits so long for the end of transactions that another worker left open; see transactions.py.
OPEN_TRANSACTIONS_S = 60.0
# After this time without stable offsets, a transaction of this worker itself may be the cause.
STABLE_OFFSETS_S = 5.0
# Producers' clocks may differ: rows that need a prediction are searched from this much earlier on.
CLOCK_SKEW_MS = 60_000
NS_PER_MS = 1_000_000
OWED_ROWS_AT_ONCE = 5000
# Topics end with markers of transactions. A reader learns that it is past them from an empty fetch, which by default
# comes after 500 ms: 0.5 s for each of about five reads of a partition.
END_WAIT_MS = 10

OwedRow = tuple[FeatureRow, int]  # and when it was written, ns, wall clock


@dataclass(slots=True)
class Restored:
    partition: Partition
    owed: list[Rows] = field(default_factory=list)  # committed rows without a prediction, oldest first
    former_schema: list[Rows] = field(default_factory=list)  # as owed, but of another schema; without values
    lost_records: int = 0  # that retention took before they were read


class Restorer:
    """Reads back the state of partitions of ticks.raw for the group of `consumer`.

    codes: of the products in Rows.
    """

    def __init__(
        self,
        config: KafkaConfig,
        group_id: str,
        schema: FeatureSchema,
        max_future_ns: int,
        consumer: Consumer,
        delivery: Delivery,
        codes: VenueProductCodes,
    ) -> None:
        self._consumer = consumer
        self._delivery = delivery
        self._config = config
        self._group_id = group_id
        self._schema = schema
        self._max_future_ns = max_future_ns
        self._codes = codes

    def restore(self, numbers: Sequence[int]) -> list[Restored]:
        """The state of each partition as of its committed offset.

        Raises UnavailableError if the broker does not answer.
        """
        raw = [TopicPartition(self._config.topics.raw, number) for number in numbers]
        # Another worker's open transaction may hold offsets of these partitions.
        offsets = retrying(
            lambda: self._committed(raw),
            "the committed offsets cannot be read",
            OPEN_TRANSACTIONS_S,
        )
        with ExitStack() as cleanup:
            # Retention may overtake the reader: an error, not a silent jump.
            settings = {
                "enable.partition.eof": True, "fetch.wait.max.ms": END_WAIT_MS, "auto.offset.reset": "error",
            }  # fmt: skip
            reader = make_consumer(self._config, f"{self._group_id}-restore", **settings)
            cleanup.callback(reader.close)
            ends = make_consumer(self._config, f"{self._group_id}-restore", **{"isolation.level": "read_uncommitted"})
            cleanup.callback(ends.close)
            try:
                log = _Log(reader, ends, self._config.timeout_s)
                return [self._restored(log, partition) for partition in offsets]
            except KafkaException as exception:
                raise failure("the worker's state cannot be read back", kafka_error(exception)) from None

    def _committed(self, raw: list[TopicPartition]) -> list[TopicPartition]:
        try:
            return self._consumer.committed(raw, min(self._config.timeout_s, STABLE_OFFSETS_S))
        except KafkaException as exception:
            if kafka_error(exception).code() == KafkaError._TIMED_OUT:
                self._delivery.release(raw)
            raise

    def _restored(self, log: _Log, committed: TopicPartition) -> Restored:
        while True:
            try:
                return self._restore(log, committed)
            except _DeletedError:
                get_logger().info("kafka deletes records while they are read, once more", partition=committed.partition)

    def _restore(self, log: _Log, committed: TopicPartition) -> Restored:
        number, end = committed.partition, committed.offset
        marker = from_metadata(committed.metadata, end)
        low, high = log.bounds(committed.topic, number)
        snapshots = self._snapshot_partition(log, number, marker)
        if end < 0:
            return Restored(self._new(number, snapshots, low))
        if end > high:
            get_logger().warning("ticks.raw was made anew, windows start anew", partition=number, committed=end)
            return Restored(self._new(number, snapshots, low))
        began_s = time.monotonic()
        partition = self._with_snapshots(log, number, snapshots, marker, end) if marker else None
        if partition is None or marker is None:
            partition = self._new(number, snapshots, 0)
            replay_from = max(low, end - MAX_REPLAY_RECORDS)
        else:
            replay_from = marker.replay_from
        restored = Restored(partition)
        if low > replay_from:
            partition.break_at(low)
            restored.lost_records = max(0, low - end) or low - replay_from
        replayed = 0
        for batch in log.read(committed.topic, number, max(low, replay_from), end):
            partition.absorb(batch)
            replayed += len(batch)
        partition.loaded()
        partition.next_offset = max(end, low)
        if marker is not None and marker.owed_from is not None:
            owed = self._owed_rows(log, number, marker, end)
            current = [row.schema_hash == self._schema.hash for row, _ in owed]
            restored.owed = self._in_frames(list(compress(owed, current)))
            restored.former_schema = self._in_frames(list(compress(owed, map(not_, current))))
        get_logger().info(
            "state restored",
            partition=number,
            products=len(partition.codes),
            replayed=replayed,
            owed_rows=sum(map(len, restored.owed)),
            owed_rows_of_former_schema=sum(map(len, restored.former_schema)),
            lost_records=restored.lost_records,
            ms=round((time.monotonic() - began_s) * 1e3),
        )
        return restored

    def _new(self, number: int, snapshot_partition: int, next_offset: int) -> Partition:
        lineage = secrets.token_hex(8)
        partition = Partition(number, self._schema, self._max_future_ns, lineage, snapshot_partition)
        partition.next_offset = next_offset
        return partition

    def _snapshot_partition(self, log: _Log, number: int, marker: Marker | None) -> int:
        """Where the partition's snapshots are, also after the topic got more partitions."""
        partitions = log.partitions(self._config.topics.snapshots)
        if marker is not None and 0 <= marker.snapshot_partition < partitions:
            return marker.snapshot_partition
        return number % partitions

    def _with_snapshots(
        self, log: _Log, number: int, snapshot_partition: int, marker: Marker, end: int
    ) -> Partition | None:
        """None if snapshots are missing, or are of another format or schema: the last ticks have to do."""
        reader = SnapshotReader(self._group_id, number, marker.lineage, end)
        for batch in log.read_all(self._config.topics.snapshots, snapshot_partition):
            for message in batch:
                reader.take(message.value() or b"")
        snapshots = reader.complete()
        partition = Partition(number, self._schema, self._max_future_ns, marker.lineage, snapshot_partition)
        partition.broken_at = marker.broken_at
        try:
            partition.load(snapshots)
        except ValueError as error:
            get_logger().warning("snapshots cannot be used", partition=number, error=str(error))
            return None
        if reader.unreadable:
            get_logger().warning("snapshots of an unknown format", partition=number, records=reader.unreadable)
            return None
        if len(snapshots) < marker.snapshot_products:
            get_logger().warning(
                "snapshots are missing; is the topic compacted?",
                topic=self._config.topics.snapshots,
                partition=number,
                expected=marker.snapshot_products,
                present=len(snapshots),
            )
            return None
        return partition

    def _owed_rows(self, log: _Log, number: int, marker: Marker, end: int) -> list[OwedRow]:
        """Committed feature rows of ticks from marker.owed_from on: features are committed, predictions are not.

        The worker publishes the rows of a batch by product. The forecaster needs them in the order of ticks.raw, since
        the first row that it owes is the next marker.
        """
        assert marker.owed_from is not None
        topic = self._config.topics.features
        since_ms = max(0, marker.owed_since_ns // NS_PER_MS - CLOCK_SKEW_MS)
        owed: dict[int, OwedRow] = {}  # by offset: if at-least-once delivery repeated a row, the last copy
        for feature_partition in range(log.partitions(topic)):
            start = log.offset_at(topic, feature_partition, since_ms)
            for batch in log.read_all(topic, feature_partition, start):
                for message in batch:
                    row = _parsed(message)
                    if row is None or row.source_partition != number or not row.warm:
                        continue
                    if marker.owed_from <= row.source_offset < end:
                        owed[row.source_offset] = row, message.timestamp()[1] * NS_PER_MS
        if marker.owed_from not in owed:
            get_logger().warning(
                "kafka deleted feature rows before they were predicted",
                partition=number,
                owed_from=marker.owed_from,
                first_left=min(owed, default=None),
            )
        return [owed[offset] for offset in sorted(owed)]

    def _in_frames(self, owed: Sequence[OwedRow]) -> list[Rows]:
        return [
            self._as_rows(owed[begin : begin + OWED_ROWS_AT_ONCE]) for begin in range(0, len(owed), OWED_ROWS_AT_ONCE)
        ]

    def _as_rows(self, owed: Sequence[OwedRow]) -> Rows:
        rows = [row for row, _ in owed]
        times = np.array([written_ns for _, written_ns in owed], np.int64)
        is_current = rows[0].schema_hash == self._schema.hash
        return Rows(
            np.array([self._codes[row.venue, row.product_id] for row in rows], np.int32),
            np.array([row.source_partition for row in rows], np.int32),
            np.array([row.source_offset for row in rows], np.int64),
            np.array([row.event_time_ns for row in rows], np.int64),
            np.array([row.ingest_time_ns for row in rows], np.int64),
            np.array([row.sequence_num for row in rows], np.int64),
            np.array([row.bid for row in rows], np.float64),
            np.array([row.ask for row in rows], np.float64),
            np.array([row.imbalance for row in rows], np.float64),
            np.array([row.values if is_current else () for row in rows], np.float64),
            times,
            times,
        )


class _DeletedError(Exception):
    """Kafka deleted records that were about to be read."""


class _Log:
    """Topics as plain ranges of offsets. reader: read_committed, reports the end of a partition."""

    def __init__(self, reader: Consumer, ends: Consumer, timeout_s: float) -> None:
        self._reader = reader
        self._ends = ends
        self._timeout_s = timeout_s

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return watermarks(self._ends, TopicPartition(topic, partition), self._timeout_s)

    def partitions(self, topic: str) -> int:
        known = retrying(
            lambda: self._reader.list_topics(topic, self._timeout_s), f"{topic} cannot be read", self._timeout_s
        )
        return max(1, len(known.topics[topic].partitions))

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        """The first offset whose record is of that time or later; the end if there is none."""
        asked = [TopicPartition(topic, partition, time_ms)]
        (first,) = retrying(
            lambda: self._ends.offsets_for_times(asked, self._timeout_s), f"{topic} cannot be read", self._timeout_s
        )
        return first.offset if first.offset >= 0 else self.bounds(topic, partition)[1]

    def read_all(self, topic: str, partition: int, start: int = 0) -> Iterator[list[Message]]:
        low, high = self.bounds(topic, partition)
        return self.read(topic, partition, max(start, low), high)

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[Message]]:
        """Committed messages from `start` to before `end`.

        The last records before `end` may be markers of transactions, which no consumer sees, or part of an open
        transaction, for which it waits. So the end of the partition decides, not the last message.
        """
        if start >= end:
            return
        reader = self._reader
        reader.assign([TopicPartition(topic, partition, start)])
        position, deadline_s = start, time.monotonic() + OPEN_TRANSACTIONS_S
        while position < end:
            batch: list[Message] = []
            for message in reader.consume(1, 0.2) + reader.consume(5000, 0):
                error = message.error()
                if error is None:
                    position = (message.offset() or 0) + 1
                    batch.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    position = max(position, message.offset() or 0)
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                    raise _DeletedError
                elif not goes_on(error):
                    raise KafkaException(error)
            wanted = [message for message in batch if (message.offset() or 0) < end]
            if wanted:
                yield wanted
            if batch:
                deadline_s = time.monotonic() + OPEN_TRANSACTIONS_S
            elif time.monotonic() > deadline_s:
                raise UnavailableError(
                    f"kafka: {topic}[{partition}] cannot be read from {position} to {end} within "
                    f"{OPEN_TRANSACTIONS_S:g} s"
                )


def _parsed(message: Message) -> FeatureRow | None:
    try:
        return FeatureRow.FromString(message.value() or b"")
    except DecodeError:
        return None
