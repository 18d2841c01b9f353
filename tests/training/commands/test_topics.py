"""Topics are read to their ends on a real Kafka, whatever lies there."""

from __future__ import annotations

import itertools
import time

from confluent_kafka import Message

from common.config import KafkaConfig
from pipeline.stream.kafka import Sink, make_producer
from training.commands.topics import TopicReader, read_to_end


def put(kafka: KafkaConfig, *values: bytes) -> None:
    sink = Sink(kafka)
    for value in values:
        sink.send(kafka.topics.features, b"key", value)
    sink.flush()
    sink.close()


def transaction(kafka: KafkaConfig, value: bytes, commit: bool) -> None:
    producer = make_producer(kafka, **{"transactional.id": f"test-{kafka.topics.features}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(kafka.topics.features, value, b"key")
    producer.flush(30)
    (producer.commit_transaction if commit else producer.abort_transaction)(30)
    producer.close()


def values_of(messages: list[Message]) -> list[bytes]:
    return [message.value() or b"" for message in messages]


def test_markers_and_aborted_records_at_the_end_are_not_waited_for(kafka: KafkaConfig) -> None:
    transaction(kafka, b"first", commit=True)
    transaction(kafka, b"void", commit=False)
    began_s = time.monotonic()
    assert values_of(list(read_to_end(kafka, kafka.topics.features, None))) == [b"first"]
    assert time.monotonic() - began_s < 4.0  # the end is reported, not guessed from silence


def test_a_topic_that_grows_while_it_is_read_has_an_end(kafka: KafkaConfig) -> None:
    put(kafka, b"0", b"1", b"2")
    read = []
    for message in itertools.islice(read_to_end(kafka, kafka.topics.features, None), 50):
        read.append(message)
        put(kafka, b"later")
    assert values_of(read)[:3] == [b"0", b"1", b"2"]
    assert len(read) < 50


def test_a_topic_without_records_since_a_time_is_at_its_end(kafka: KafkaConfig) -> None:
    put(kafka, b"old")
    reader = TopicReader(kafka, kafka.topics.features, round((time.time() + 3600) * 1000))
    assert not reader.at_end
    deadline_s = time.monotonic() + 20
    while not (reader.at_end and reader.has_caught_up) and time.monotonic() < deadline_s:
        assert reader.read(0.1) == []
    assert reader.at_end
    put(kafka, b"new")
    while not (messages := reader.read(0.1)):
        assert time.monotonic() < deadline_s
    assert values_of(messages) == [b"new"]
    reader.close()
