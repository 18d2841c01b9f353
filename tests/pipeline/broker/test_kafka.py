"""A real Apache Kafka from the wheel: it keeps its data, ends in order, and says why it does not start."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.processes import free_port
from common.config import KafkaConfig
from common.errors import UnavailableError
from pipeline.broker import kafka as module
from pipeline.broker.kafka import KafkaBroker
from pipeline.broker.properties import Listener
from pipeline.stream.kafka import Sink, connect
from pipeline.stream.kafka_topics import ensure_topics
from pipeline.stream.transactions import _close
from tests.processes import read_all

pytestmark = pytest.mark.process


def leave_transaction_open(broker: KafkaBroker, config: KafkaConfig, transactional_id: str, group_id: str) -> None:
    """Kills the broker in a transaction with offsets and two records, and starts it when the transaction is over."""
    producer = Producer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": 1000,
            "error_cb": lambda error: None,
            "log_level": 0,
        }
    )
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": group_id})
    producer.init_transactions(30)
    for is_last in (False, True):
        producer.begin_transaction()
        for topic in (config.topics.features, config.topics.dead):
            producer.produce(topic, b"", partition=0)
        offsets = [TopicPartition(config.topics.raw, 0, 0)]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 30)
        assert producer.flush(30) == 0
        if not is_last:
            producer.commit_transaction(30)
    consumer.close()
    broker.kill()
    time.sleep(1.5)
    broker.start()
    _close(producer)


def stable_end(broker: KafkaBroker, topic: str) -> int:
    """Up to where readers of committed records come in partition 0."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "reader"})
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), 20)
    consumer.close()
    return end


def test_kill_9_leaves_no_transaction_open(tmp_path: Path) -> None:
    with KafkaBroker(tmp_path, port=free_port(), controller_port=free_port()) as broker:
        config = KafkaConfig(bootstrap_servers=broker.bootstrap_servers)
        ensure_topics(connect(config), config)
        leave_transaction_open(broker, config, "killed", "group")
        consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "group"})
        (committed,) = consumer.committed([TopicPartition(config.topics.raw, 0)], 20)
        assert committed.offset == 0
        consumer.close()
        assert stable_end(broker, config.topics.features) == 4  # two records, each with the marker of its transaction


def test_records_and_ports_stay_over_a_stop_and_over_kill_9(tmp_path: Path) -> None:
    broker = KafkaBroker(tmp_path, port=free_port(), controller_port=free_port())
    broker.start()
    try:
        config = KafkaConfig(bootstrap_servers=broker.bootstrap_servers)
        ensure_topics(connect(config), config)
        for number, end in enumerate((broker.stop, broker.kill)):
            sink = Sink(config)
            sink.send(config.topics.raw, b"key", b"%d" % number)
            sink.flush()
            sink.close()
            pid = broker.pid
            end()
            assert not broker.alive
            broker.start()
            assert broker.pid != pid
            assert broker.bootstrap_servers == config.bootstrap_servers
            values = [message.value() for message in read_all(config, config.topics.raw, number + 1)]
            assert values == [b"%d" % each for each in range(number + 1)]
    finally:
        broker.stop()
    assert not broker.alive


def test_aborted_transactions_stay_invisible(broker: str, kafka: KafkaConfig) -> None:
    producer = Producer({"bootstrap.servers": broker, "transactional.id": kafka.topics.raw, "log_level": 0})
    producer.init_transactions()
    for number in range(4):
        producer.begin_transaction()
        producer.produce(kafka.topics.raw, b"%d" % number)
        producer.flush()
        (producer.commit_transaction if number % 2 else producer.abort_transaction)()
    assert [message.value() for message in read_all(kafka, kafka.topics.raw, 2)] == [b"1", b"3"]


def test_a_port_in_use_is_one_line_with_the_setting(broker: str, tmp_path: Path) -> None:
    port = int(broker.rpartition(":")[2])
    with pytest.raises(UnavailableError, match=rf"^port {port} .* in use; choose another with --port or broker\.port$"):
        KafkaBroker(tmp_path, port=port).start()


def test_a_folder_in_use_by_another_broker_is_one_line_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.1)
    (tmp_path / "kafka.log").write_text("of the broker that runs")
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(
            UnavailableError, match=r"^broker: another broker uses .*; choose another folder with --data"
        ):
            KafkaBroker(tmp_path).start()
    assert (tmp_path / "kafka.log").read_text() == "of the broker that runs"
    assert not (tmp_path / "server.properties").exists()


def test_a_setting_that_kafka_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    bad = KafkaBroker(tmp_path, properties={"log.segment.bytes": "5"})
    with pytest.raises(UnavailableError, match=r"cannot be formatted: .*log\.segment\.bytes"):
        bad.start()
    assert not bad.alive
    assert (tmp_path / "server.properties").stat().st_mode & 0o077 == 0


def test_a_reason_of_a_start_that_failed_is_the_innermost_one(tmp_path: Path) -> None:
    secure = Listener("SECURE", "SSL", 0, properties={"ssl.keystore.location": "/no/such/file"})
    bad = KafkaBroker(tmp_path, listeners=[secure])
    with pytest.raises(
        UnavailableError, match=r"did not start on .*SSL key store is specified, but key store password is not"
    ):
        bad.start()
    assert not bad.alive


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match=r"^broker: .*/file/kafka cannot be used: Not a directory$"):
        KafkaBroker(tmp_path / "file" / "kafka").start()


def test_a_kafka_that_never_answers_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text('#!/bin/sh\nfor word; do [ "$word" = format ] && exit 0; done\nexec sleep 60\n')
    java.chmod(0o755)
    monkeypatch.setattr(module, "java", lambda: java)
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.1)
    waiting = KafkaBroker(tmp_path / "data", port=free_port())
    with pytest.raises(UnavailableError, match=r"did not start on 127\.0\.0\.1:\d+: no output"):
        waiting.start()
    assert not waiting.alive
