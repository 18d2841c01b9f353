"""What training's commands read from Kafka: the only place in training that knows it."""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import OFFSET_END, Consumer, Message, TopicPartition

from common.config import KafkaConfig
from pipeline.stream.kafka import connect, consume_batch, make_consumer, offsets_at, partitions_of, watermarks

BATCH = 5000
# A reader is at the end when it has waited for so long in vain; longer while records before the end are missing, since
# records of aborted transactions and commit markers are counted and never come.
IDLE_S = 0.5
LONG_S = 5.0


class TopicReader:
    """All partitions of one topic, from a time on or from the first record; no group, nothing committed."""

    def __init__(self, config: KafkaConfig, topic: str, since_ms: int | None) -> None:
        """since_ms: the records' wall-clock time; None: from the first one.

        Raises UnavailableError where no broker answers or there is no such topic.
        """
        connect(config)
        self._consumer: Consumer = make_consumer(config, "volcast-monitor")
        self._waited_s = 0.0  # since the last message
        try:
            begin, self._ends = _positions(self._consumer, config, topic, since_ms)
            self._consumer.assign(begin)
        except BaseException:
            self._consumer.close()
            raise

    def read(self, timeout_s: float) -> list[Message]:
        began_s = time.monotonic()
        messages = consume_batch(self._consumer, BATCH, timeout_s)
        self._waited_s = 0.0 if messages else self._waited_s + time.monotonic() - began_s
        for message in messages:
            partition = message.partition() or 0
            if (message.offset() or 0) + 1 >= self._ends.get(partition, 0):
                self._ends.pop(partition, None)
        return messages

    @property
    def at_end(self) -> bool:
        """Whether all that was there at the start is read and the last reads brought nothing.

        Time that was not spent reading does not count. A broker that gives nothing for long has no more to give:
        records of transactions that were given up are counted and never come.
        """
        return self._waited_s >= (LONG_S if self._ends else IDLE_S)

    def close(self) -> None:
        self._consumer.close()


def read_to_end(config: KafkaConfig, topic: str, since_ms: int | None) -> Iterator[Message]:
    """The records of a topic until no more come."""
    reader = TopicReader(config, topic, since_ms)
    try:
        while not reader.at_end:
            yield from reader.read(0.1)
    finally:
        reader.close()


def _positions(
    consumer: Consumer, config: KafkaConfig, topic: str, since_ms: int | None
) -> tuple[list[TopicPartition], dict[int, int]]:
    """Where to begin, and the ends of the partitions that hold something from there on."""
    begin, ends = [], {}
    for number in partitions_of(consumer, topic, config.timeout_s):
        low, high = watermarks(consumer, TopicPartition(topic, number), config.timeout_s)
        begin.append(TopicPartition(topic, number, low))
        ends[number] = high
    if since_ms is not None:
        wanted = [TopicPartition(topic, each.partition, since_ms) for each in begin]
        found = offsets_at(consumer, wanted, config.timeout_s)
        # Below zero: nothing as new as that.
        begin = [
            TopicPartition(topic, each.partition, each.offset if each.offset >= 0 else OFFSET_END) for each in found
        ]
    return begin, {one.partition: ends[one.partition] for one in begin if 0 <= one.offset < ends[one.partition]}
