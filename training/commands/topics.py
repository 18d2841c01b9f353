"""What training's commands read from Kafka: the only place in training that knows it."""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import OFFSET_END, Consumer, KafkaException, Message, TopicPartition

from common.config import KafkaConfig
from common.errors import UnavailableError
from pipeline.stream.kafka import connect, consume_batch, make_consumer

BATCH = 5000
# A broker whose newest batch counts as one record (the embedded one) says an end that lies before the real one,
# so a reader is at the end when it has waited for so long in vain.
IDLE_S = 0.5


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
            self._consumer.assign(_positions(self._consumer, config, topic, since_ms))
        except BaseException:
            self._consumer.close()
            raise

    def read(self, timeout_s: float) -> list[Message]:
        began_s = time.monotonic()
        messages = consume_batch(self._consumer, BATCH, timeout_s)
        self._waited_s = 0.0 if messages else self._waited_s + time.monotonic() - began_s
        return messages

    @property
    def at_end(self) -> bool:
        """Whether the last reads brought nothing. Time that was not spent reading does not count."""
        return self._waited_s >= IDLE_S

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


def _positions(consumer: Consumer, config: KafkaConfig, topic: str, since_ms: int | None) -> list[TopicPartition]:
    known = consumer.list_topics(timeout=config.timeout_s).topics
    if topic not in known:
        raise UnavailableError(f"kafka: there is no topic {topic}; `volcast worker` makes it")
    positions = []
    try:
        for one in known[topic].partitions:
            partition = TopicPartition(topic, one)
            low, _ = consumer.get_watermark_offsets(partition, config.timeout_s)
            positions.append(TopicPartition(topic, one, low))
        if since_ms is None:
            return positions
        wanted = [TopicPartition(one.topic, one.partition, since_ms) for one in positions]
        found = consumer.offsets_for_times(wanted, config.timeout_s)
    except KafkaException as error:
        raise UnavailableError(f"kafka: where to begin in {topic} cannot be found: {error.args[0].str()}") from None
    # Below zero: nothing as new as that.
    return [TopicPartition(one.topic, one.partition, one.offset if one.offset >= 0 else OFFSET_END) for one in found]
