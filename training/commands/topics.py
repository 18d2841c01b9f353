"""What training's commands read from Kafka: the only place in training that knows it."""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import OFFSET_END, Message, TopicPartition

from common.config import KafkaConfig
from common.errors import UnavailableError
from pipeline.stream.kafka import connect, make_consumer, offsets_at
from pipeline.stream.reading import BATCH_MESSAGES, IDLE_S, Reader, TopicPlace, bounds_of

CLIENT_NAME = "volcast-monitor"


class TopicReader:
    """All partitions of a topic, from a time on or from the first record; no group, nothing committed."""

    def __init__(self, config: KafkaConfig, topic: str, since_ms: int | None) -> None:
        """since_ms: the records' wall-clock time; None: from the first record.

        Raises UnavailableError if no broker answers or there is no such topic.
        """
        connect(config)
        bounds = bounds_of(config, [topic], CLIENT_NAME)
        begin = [TopicPartition(*place, low) for place, (low, _) in bounds.items()]
        if since_ms is not None:
            begin = _since(config, begin, since_ms)
        self.ends: dict[TopicPlace, int] = {place: high for place, (_, high) in bounds.items()}
        self.reader = Reader(config, CLIENT_NAME, begin)
        self._topic = topic
        self._idle_s = 0.0  # spent reading without a message

    def read(self, timeout_s: float) -> list[Message]:
        """The next messages. Raises UnavailableError if none comes for IDLE_S, though the topic has more."""
        began_s = time.monotonic()
        messages = self.reader.read(BATCH_MESSAGES, timeout_s)
        idle = not messages and not self.has_caught_up
        self._idle_s = self._idle_s + time.monotonic() - began_s if idle else 0.0
        if self._idle_s > IDLE_S:
            raise UnavailableError(f"kafka: {self._topic} cannot be read to its end within {IDLE_S:g} s")
        return messages

    @property
    def at_end(self) -> bool:
        """Whether the last reads came to the end of the topic."""
        return self.reader.at_end

    @property
    def has_caught_up(self) -> bool:
        """Whether all that was there at the start is read."""
        return self.reader.has_read(self.ends)

    def close(self) -> None:
        self.reader.close()


def read_to_end(config: KafkaConfig, topic: str, since_ms: int | None) -> Iterator[Message]:
    """The records that the topic holds now. Raises UnavailableError if the broker stops answering."""
    topic_reader = TopicReader(config, topic, since_ms)
    try:
        for messages in topic_reader.reader.read_until(topic_reader.ends):
            yield from messages
    finally:
        topic_reader.close()


def _since(config: KafkaConfig, partitions: list[TopicPartition], since_ms: int) -> list[TopicPartition]:
    """The same partitions from the first record of that time or later on, or from the end if there is none."""
    wanted = [TopicPartition(each.topic, each.partition, since_ms) for each in partitions]
    consumer = make_consumer(config, CLIENT_NAME)
    try:
        first = offsets_at(consumer, wanted, config.timeout_s)
    finally:
        consumer.close()
    return [
        TopicPartition(each.topic, each.partition, each.offset if each.offset >= 0 else OFFSET_END) for each in first
    ]
