"""A transaction that Kafka left open for ever, as a single broker does that is killed and started by others."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.processes import free_port
from common.config import KafkaConfig
from pipeline.broker.kafka import KafkaBroker
from pipeline.stream.kafka import connect
from pipeline.stream.kafka_topics import ensure_topics
from tests.pipeline.broker.test_kafka import leave_transaction_open, stable_end
from tests.pipeline.stream.test_path import finish, publish, working
from tests.pipeline.stream.ticks import market

pytestmark = pytest.mark.kafka


def test_a_worker_ends_its_hanging_transaction(
    tmp_path: Path, inference_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KafkaBroker, "_was_killed", False)
    with KafkaBroker(tmp_path, port=free_port(), controller_port=free_port()) as broker:
        kafka = KafkaConfig(bootstrap_servers=broker.bootstrap_servers)
        ensure_topics(connect(kafka), kafka)
        hanging_end = leave_transaction_hanging(broker, kafka)
        ticks = market(2000, rate_per_s=12)
        publish(kafka, ticks)
        with working(kafka, inference_server, "hanging", instance_id="first") as worker:
            finish(worker, len(ticks))
        assert worker.totals.features == len(ticks)
        # Also where the worker has written nothing since.
        assert stable_end(broker, kafka.topics.dead) > hanging_end + 1


def leave_transaction_hanging(broker: KafkaBroker, kafka: KafkaConfig) -> int:
    """Returns the last stable offset of the dead letters, at which the transaction keeps all readers.

    A broker that is killed does not always lose the end of a transaction: beside four busy processes it kept the first.
    """
    for attempt in range(8):
        leave_transaction_open(broker, kafka, f"hanging-{kafka.topics.raw}-first", f"hanging-{kafka.topics.raw}")
        # Each attempt writes a record and a marker, and a record whose marker is lost.
        end = stable_end(broker, kafka.topics.dead)
        if end == 4 * attempt + 2:
            return end
    raise AssertionError("the broker lost the end of no transaction")
