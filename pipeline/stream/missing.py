"""The ticks of a recording that ticks.raw lacks, with the gaps that keep the worker's windows right."""

from __future__ import annotations

import time
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from confluent_kafka import Message, TopicPartition
from numpy.typing import NDArray

from common.config import KafkaConfig
from pipeline.records import NOT_DECODED, DeadLetter, Gap, LateTick, Record, Tick, decode_record, record_key
from pipeline.stream.reading import Reader, TopicPlace, bounds_of

CLIENT_NAME = "volcast-missing"
NS_PER_MS = 1_000_000


class PresentTicks:
    """The ticks of a topic, 16 bytes each: event time and sequence number by product.

    since_ns: wall clock since which the topic is whole; retention has deleted records that were published before. 0: no
    record was deleted.
    """

    def __init__(self, records: Iterable[Tick], since_ns: int = 0) -> None:
        self.since_ns = since_ns
        times: dict[str, array[int]] = defaultdict(lambda: array("q"))
        sequences: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self._newest: dict[str, tuple[int, int]] = {}  # product -> its last tick on the topic
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

    def may_be_deleted(self, tick: Tick) -> bool:
        """Whether retention may have deleted the tick from the topic."""
        return (tick.ingest_time_ns or tick.event_time_ns) < self.since_ns

    def is_newest(self, tick: Tick) -> bool:
        """Whether the tick is the last one of its product on the topic."""
        return self._newest.get(record_key(tick.venue, tick.product_id)) == (tick.event_time_ns, tick.sequence_num)

    def is_new(self, key: str) -> bool:
        """Whether no tick of the product was ever on the topic."""
        return key not in self._newest and not self.since_ns


def missing_records(
    records: Iterable[Tick | Gap | LateTick | DeadLetter], present: PresentTicks
) -> Iterator[Tick | Gap]:
    """The missing ticks in order, with gaps around each unbroken run of them.

    Ticks that retention may have deleted from the topic are not missing: the worker has read them.

    A run that directly follows the product's last tick on the topic needs no gap: the windows are whole. Any other
    run begins with a gap, and a gap follows the product's last run, since later ticks are on the topic already.
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
        if present.holds(record) or present.may_be_deleted(record):
            before[key] = record
            running.pop(key, None)
            continue
        if key not in running:
            appends = present.is_new(key) or (key in before and present.is_newest(before[key]))
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
    bounds = bounds_of(config, [config.topics.raw], CLIENT_NAME)
    # When the first record that is left was published, of each partition that has lost records; now if none is left.
    first_left_ns = {number: time.time_ns() for (_, number), (low, _) in bounds.items() if low > 0}

    def ticks() -> Iterator[Tick]:
        unread = set(first_left_ns)
        for message in _messages(config, bounds):
            number = message.partition() or 0
            if number in unread:
                unread.discard(number)
                first_left_ns[number] = message.timestamp()[1] * NS_PER_MS
            record = _decoded(message.value() or b"")
            if isinstance(record, Tick):
                yield record

    present = PresentTicks(ticks())
    present.since_ns = max(first_left_ns.values(), default=0)
    return present


def read_values(config: KafkaConfig, last: int) -> list[bytes]:
    """The last records of each partition of ticks.raw, as bytes. Raises UnavailableError as `read_present`."""
    bounds = bounds_of(config, [config.topics.raw], CLIENT_NAME)
    ends = {place: (max(low, high - last), high) for place, (low, high) in bounds.items()}
    return [message.value() or b"" for message in _messages(config, ends)]


def _messages(config: KafkaConfig, bounds: Mapping[TopicPlace, tuple[int, int]]) -> Iterator[Message]:
    reader = Reader(config, CLIENT_NAME, [TopicPartition(*place, low) for place, (low, _) in bounds.items()])
    try:
        for batch in reader.read_until({place: high for place, (_, high) in bounds.items()}):
            yield from batch
    finally:
        reader.close()


def _decoded(raw: bytes) -> Record | None:
    try:
        record: Record = decode_record(raw)
        return record
    except NOT_DECODED:
        return None
