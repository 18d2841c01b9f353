"""Reads topics outside of any group, and knows when it has come to their ends.

No consumer sees markers of transactions and records of aborted transactions, and the last records of a partition may be
such. So the client's own report of the end decides (`enable.partition.eof`), not the last message.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from confluent_kafka import Message, TopicPartition

from common.config import KafkaConfig
from common.errors import UnavailableError
from pipeline.stream.kafka import consume_batch, make_consumer, partitions_of, watermarks

TopicPlace = tuple[str, int]  # topic and partition

BATCH_MESSAGES = 5000
END_WAIT_MS = 50  # an end behind markers of transactions is reported after an empty fetch; the default is 500
# Without a message or an end for so long, the broker is unavailable, or a transaction of a dead worker is open: the
# broker aborts it after 10 s, and looks for such transactions every 10 s.
IDLE_S = 30.0


class Reader:
    """The partitions from given offsets on. Several topics may be read at once."""

    def __init__(self, config: KafkaConfig, name: str, begin: Sequence[TopicPartition]) -> None:
        """name: of the group that the broker's logs and rights show; nothing is committed."""
        self._positions: dict[TopicPlace, int] = {(each.topic, each.partition): each.offset for each in begin}
        self._at_end: set[TopicPlace] = set()
        settings = {"enable.partition.eof": True, "fetch.wait.max.ms": END_WAIT_MS}
        self._consumer = make_consumer(config, name, **settings)
        self._consumer.assign(list(begin))

    @property
    def at_end(self) -> bool:
        """Whether the last reads have come to the end of each partition, as it was then."""
        return len(self._at_end) == len(self._positions)

    def has_read(self, ends: Mapping[TopicPlace, int]) -> bool:
        """Whether all records before these offsets are read."""
        return all(self._positions[place] >= end for place, end in ends.items())

    def read(self, limit: int, timeout_s: float) -> list[Message]:
        """The next messages, up to `limit`; waits up to `timeout_s` for the first of them.

        Raises UnavailableError for an error that the client cannot recover from.
        """
        ends: list[Message] = []
        messages = consume_batch(self._consumer, limit, timeout_s, on_end=ends.append)
        for message in messages:
            place = message.topic() or "", message.partition() or 0
            self._positions[place] = (message.offset() or 0) + 1
            self._at_end.discard(place)
        for end in ends:
            place, offset = (end.topic() or "", end.partition() or 0), end.offset() or 0
            if offset >= self._positions[place]:  # else messages of this batch came after it
                self._positions[place] = offset
                self._at_end.add(place)
        return messages

    def read_until(self, ends: Mapping[TopicPlace, int]) -> Iterator[list[Message]]:
        """All messages before the given offsets, and perhaps some after them.

        Raises UnavailableError if neither a message nor an end comes for IDLE_S.
        """
        last_s = time.monotonic()
        while not self.has_read(ends):
            messages = self.read(BATCH_MESSAGES, 0.1)
            if messages:
                last_s = time.monotonic()
                yield messages
            elif time.monotonic() - last_s > IDLE_S:
                (topic, partition), _ = next(each for each in ends.items() if self._positions[each[0]] < each[1])
                raise UnavailableError(f"kafka: {topic}[{partition}] cannot be read to its end within {IDLE_S:g} s")

    def close(self) -> None:
        self._consumer.close()


def bounds_of(
    config: KafkaConfig, topics: Sequence[str], name: str, *, open_too: bool = False
) -> dict[TopicPlace, tuple[int, int]]:
    """The first offset of each partition of the topics, and the offset after its last record.

    open_too: the end includes records of open transactions. After a commit its offsets may be readable before its rows.

    They are asked for in this order. Raises UnavailableError if there is no such topic, or if no broker answers.
    """
    consumer = make_consumer(config, name, **({"isolation.level": "read_uncommitted"} if open_too else {}))
    try:
        return {
            (topic, number): watermarks(consumer, TopicPartition(topic, number), config.timeout_s)
            for topic in topics
            for number in partitions_of(consumer, topic, config.timeout_s)
        }
    finally:
        consumer.close()
