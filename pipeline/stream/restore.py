"""Windows after a restart: the state is the last minute of the topic (five for full/1), read again.

No state is stored. The records before the committed offset are read back until each product's unbroken
history covers the longest window, so the engine goes on with the bits it would have had.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from common.config import KafkaConfig
from common.errors import UnavailableError
from common.log import get_logger
from pipeline.records import NOT_DECODED, Gap, Record, decode_record
from pipeline.stream.kafka import consume_batch, make_consumer

FIRST_STEP = 4096  # records read back at first; doubled until they reach far enough
# The first records read may be late ticks, which without what stood before them cannot be told from
# good ones. So a history counts from the newest of its first few: it takes that many late ticks on end to
# be deceived.
SETTLING_TICKS = 16


def history_before(config: KafkaConfig, partitions: Iterable[TopicPartition], longest_ns: int) -> list[Record]:
    """The records that build the windows as of the committed offset of each partition, in order.

    longest_ns: how far back the engine looks (FeatureEngine.longest_ns).

    Raises UnavailableError where the broker does not answer.
    """
    records: list[Record] = []
    reader = make_consumer(config, "volcast-restore")
    try:
        for partition in partitions:
            if partition.offset > 0:
                records += _partition_history(reader, config, partition, longest_ns)
    except KafkaException as error:
        raise UnavailableError(f"kafka: the last ticks cannot be read back: {error.args[0].str()}") from None
    finally:
        reader.close()
    if records:
        get_logger().info("windows rebuilt", records=len(records))
    return records


def covers(records: list[Record], longest_ns: int, at_start: bool) -> bool:
    """Whether records reach back a whole window of `longest_ns` for every product in them.

    at_start: nothing stands before them on the topic.
    """
    if at_start:
        return True
    seen: Counter[str] = Counter()
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    begun_here = set()
    for record in records:
        product = record.product_id
        if isinstance(record, Gap):
            begun_here.add(product)  # what stands before a gap does not count
            continue
        last[product] = max(record.event_time_ns, last.get(product, 0))
        seen[product] += 1
        if seen[product] <= SETTLING_TICKS:
            first[product] = last[product]
    return all(last[product] - first[product] >= longest_ns for product in last.keys() - begun_here)


def _partition_history(
    reader: Consumer, config: KafkaConfig, partition: TopicPartition, longest_ns: int
) -> list[Record]:
    low, _ = reader.get_watermark_offsets(partition, config.timeout_s, cached=False)
    step = FIRST_STEP
    while True:
        start = max(low, partition.offset - step)
        records = _read(reader, config, partition, start)
        if covers(records, longest_ns, at_start=start == low):
            return records
        step *= 2


def _read(reader: Consumer, config: KafkaConfig, partition: TopicPartition, start: int) -> list[Record]:
    reader.assign([TopicPartition(partition.topic, partition.partition, start)])
    records: list[Record] = []
    deadline = time.monotonic() + config.timeout_s
    position = start
    while position < partition.offset:
        batch = consume_batch(reader, 1000, 0.5)
        for message in batch:
            position = (message.offset() or 0) + 1
            if position <= partition.offset:
                records += _decoded(message)
        if batch:
            deadline = time.monotonic() + config.timeout_s
        elif time.monotonic() > deadline:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
    return records


def _decoded(message: Message) -> list[Record]:
    try:
        return [decode_record(message.value() or b"")]
    except NOT_DECODED:
        return []  # a dead letter already
