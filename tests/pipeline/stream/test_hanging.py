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
        leave_transaction_open(broker, kafka, f"hanging-{kafka.topics.raw}-first", f"hanging-{kafka.topics.raw}")
        assert stable_end(broker, kafka.topics.dead) == 2, "the broker did not lose the end of the transaction"
        ticks = market(2000, rate_per_s=12)
        publish(kafka, ticks)
        with working(kafka, inference_server, "hanging", instance_id="first") as worker:
            finish(worker, len(ticks))
        assert worker.totals.features == len(ticks)
        # Also where the worker has written nothing since.
        assert stable_end(broker, kafka.topics.dead) > 3
