"""The sink on a real broker."""

from __future__ import annotations

import pytest

from common.config import KafkaConfig
from pipeline.stream.kafka import Sink, connect
from pipeline.stream.kafka_topics import ensure_topics
from tests.processes import fresh_topics, read_all

pytestmark = pytest.mark.kafka


def test_messages_keep_their_order_on_a_topic_that_was_just_made(kafka: KafkaConfig) -> None:
    values = [b"%08d" % number + bytes(240) for number in range(6000)]  # more than one request holds
    for _ in range(8):  # what overtakes does so in one run of ten
        fresh = KafkaConfig(
            bootstrap_servers=kafka.bootstrap_servers,
            topics=fresh_topics(),
            fetch_wait_ms=kafka.fetch_wait_ms,
            session_timeout_ms=kafka.session_timeout_ms,
        )
        ensure_topics(connect(fresh), fresh)
        sink = Sink(fresh)
        for value in values:
            sink.send(fresh.topics.raw, b"BTC-USD", value)
        sink.flush()
        sink.close()
        assert [message.value() for message in read_all(fresh, fresh.topics.raw, len(values))] == values
