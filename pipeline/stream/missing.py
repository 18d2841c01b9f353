"""What a recording holds and ticks.raw lacks, in a form that leaves the windows of the worker right."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition
from numpy.typing import NDArray

from common.config import KafkaConfig
from common.errors import UnavailableError
from pipeline.records import NOT_DECODED, DeadLetter, Gap, LateTick, Record, Tick, decode_record, record_key
from pipeline.stream.kafka import make_consumer, partitions_of, watermarks
from pipeline.stream.kafka_errors import failure, goes_on, kafka_error

BATCH_MESSAGES = 5_000
END_WAIT_MS = 10  # for new records: the end of a partition is reported after this time
IDLE_S = 10.0  # without a message before the end of a partition: the broker is unavailable


class PresentTicks:
    """The ticks of a topic, 16 bytes each: event time and sequence number by product."""

    def __init__(self, records: Iterable[Tick]) -> None:
        times: dict[str, array[int]] = defaultdict(lambda: array("q"))
        sequences: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self._newest: dict[str, tuple[int, int]] = {}  # the last one on the topic
        self.ticks = 0
        for tick in records:
            key = record_key(tick.venue, tick.product_id)
            times[key].append(tick.event_time_ns)
            sequences[key].append(tick.sequence_num)
            self._newest[key] = tick.event_time_ns, tick.sequence_num
            self.ticks += 1
        self._sorted: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        for key, values in times.items():
            time_ns, sequence_num = np.frombuffer(values, np.int64), np.frombuffer(sequences[key], np.int64)
            order = np.lexsort((sequence_num, time_ns))
            self._sorted[key] = time_ns[order], sequence_num[order]

    def holds(self, tick: Tick) -> bool:
        columns = self._sorted.get(record_key(tick.venue, tick.product_id))
        if columns is None:
            return False
        time_ns, sequence_num = columns
        first, last = (int(np.searchsorted(time_ns, tick.event_time_ns, side)) for side in ("left", "right"))
        return bool(np.any(sequence_num[first:last] == tick.sequence_num))

    def is_newest(self, tick: Tick) -> bool:
        """Whether the tick is the last one of its product on the topic."""
        return self._newest.get(record_key(tick.venue, tick.product_id)) == (tick.event_time_ns, tick.sequence_num)

    def knows(self, key: str) -> bool:
        return key in self._newest


def missing_records(
    records: Iterable[Tick | Gap | LateTick | DeadLetter], present: PresentTicks
) -> Iterator[Tick | Gap]:
    """The missing ticks in order, with gaps around each unbroken run of them.

    A run that goes on directly after the product's last tick on the topic needs no gap: the windows are whole.
    Any other run begins with a gap, and its product ends with one, since later ticks are on the topic already.
    """
    before: dict[str, Tick] = {}  # the tick of the recording before this one, if the topic holds it
    running: dict[str, Tick] = {}  # the last tick of the run in hand
    detached: dict[str, Tick] = {}  # products with a run that needs a gap behind it
    for record in records:
        if isinstance(record, Gap):
            key = record_key(record.venue, record.product_id)
            before.pop(key, None)
            if key in running:
                yield record
            continue
        if not isinstance(record, Tick):
            continue
        key = record_key(record.venue, record.product_id)
        if present.holds(record):
            before[key] = record
            running.pop(key, None)
            continue
        if key not in running:
            appends = not present.knows(key) or (key in before and present.is_newest(before[key]))
            if not appends or key in detached:
                yield _gap(record)
                detached[key] = record
        if key in detached:
            detached[key] = record
        running[key] = record
        before.pop(key, None)
        yield record
    for last in detached.values():
        yield _gap(last)


def _gap(tick: Tick) -> Gap:
    return Gap(tick.product_id, tick.event_time_ns, tick.ingest_time_ns, "reconnect", 0, tick.venue)


def read_present(config: KafkaConfig) -> PresentTicks:
    """All ticks of ticks.raw. Raises UnavailableError if the broker does not answer."""
    records = map(_decoded, _values(config, None))
    return PresentTicks(record for record in records if isinstance(record, Tick))


def read_values(config: KafkaConfig, last: int) -> list[bytes]:
    """The last records of each partition of ticks.raw, as bytes. Raises UnavailableError as `read_present`."""
    return list(_values(config, last))


def _values(config: KafkaConfig, last: int | None) -> Iterator[bytes]:
    """The records of ticks.raw, or the last ones of each partition."""
    topic = config.topics.raw
    settings = {"enable.partition.eof": True, "fetch.wait.max.ms": END_WAIT_MS}
    consumer = make_consumer(config, "volcast-missing", **settings)
    try:
        starts = dict.fromkeys(partitions_of(consumer, topic, config.timeout_s), OFFSET_BEGINNING)
        if last is not None:
            for number in starts:
                low, high = watermarks(consumer, TopicPartition(topic, number), config.timeout_s)
                starts[number] = max(low, high - last)
        consumer.assign([TopicPartition(topic, number, start) for number, start in starts.items()])
        unread = set(starts)
        while unread:
            batch = consumer.consume(BATCH_MESSAGES, 0.2) or consumer.consume(1, IDLE_S)
            if not batch:
                raise UnavailableError(f"kafka: {topic}: no broker answers at {config.bootstrap_servers}")
            for message in batch:
                error = message.error()
                if error is None:
                    yield message.value() or b""
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition())
                elif not goes_on(error):
                    raise failure(f"{topic} cannot be read", error)
    except KafkaException as error:
        raise failure(f"{topic} cannot be read", kafka_error(error)) from None
    finally:
        consumer.close()


def _decoded(raw: bytes) -> Record | None:
    try:
        record: Record = decode_record(raw)
        return record
    except NOT_DECODED:
        return None
