"""Restarts on a real Kafka whose topics changed in the meantime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from confluent_kafka import OFFSET_END, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from common.config import KafkaConfig
from common.schema import FULL_1
from pipeline.features.table import compute_features
from pipeline.records import Tick, encode, record_key
from pipeline.stream import restore as module
from pipeline.stream.kafka import Sink, make_producer
from pipeline.stream.worker import Worker
from tests.pipeline.stream.test_exactly_once import delete_before, nowhere, predictions_of
from tests.pipeline.stream.test_kafka_topics import set_policy
from tests.pipeline.stream.test_path import assert_same, finish, publish, rows_on_topic, step_until, working
from tests.pipeline.stream.ticks import market
from tests.processes import read_all
from volcast.v1 import MissingReason

pytestmark = pytest.mark.kafka


def admin_of(kafka: KafkaConfig) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap_servers})


def add_partitions(kafka: KafkaConfig, topic: str, count: int) -> None:
    admin = admin_of(kafka)
    (future,) = admin.create_partitions([NewPartitions(topic, count)]).values()
    future.result(30)


def publish_to(kafka: KafkaConfig, partition: int, ticks: Sequence[Tick]) -> None:
    producer = make_producer(kafka)
    for tick in ticks:
        key = record_key(tick.venue, tick.product_id).encode()
        producer.produce(kafka.topics.raw, encode(tick), key, partition)
    assert producer.flush(30) == 0
    producer.close()


def finish_with_snapshots(worker: Worker, consumed: int) -> None:
    finish(worker, consumed)
    worker._snapshot_at_s = 0.0
    worker.step(0.05)
    worker.commit()
    worker.commit()  # the marker that counts the snapshots


def test_snapshots_stay_where_they_are_when_their_topic_gets_more_partitions(
    kafka: KafkaConfig, inference_server: str
) -> None:
    ticks = market(3000, rate_per_s=12)
    add_partitions(kafka, kafka.topics.raw, 2)
    publish_to(kafka, 1, ticks[:2000])
    with working(kafka, inference_server, "more") as worker:
        finish_with_snapshots(worker, 2000)
    add_partitions(kafka, kafka.topics.snapshots, 2)
    publish_to(kafka, 1, ticks[2000:])
    with working(kafka, inference_server, "more") as worker:
        finish(worker, 1000)
    assert_same(kafka, ticks)


def test_without_its_snapshots_a_worker_reads_the_last_ticks_again(kafka: KafkaConfig, inference_server: str) -> None:
    ticks = market(3000, rate_per_s=12)
    publish(kafka, ticks[:2000])
    with working(kafka, inference_server, "missing") as worker:
        finish_with_snapshots(worker, 2000)
    admin = admin_of(kafka)
    set_policy(admin, kafka.topics.snapshots, "delete")
    (future,) = admin.delete_records([TopicPartition(kafka.topics.snapshots, 0, OFFSET_END)]).values()
    future.result(30)
    publish(kafka, ticks[2000:])
    with working(kafka, inference_server, "missing") as worker:
        finish(worker, 1000)
    assert_same(kafka, ticks)


def test_retention_that_overtakes_a_restart_is_a_gap(
    kafka: KafkaConfig, inference_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = market(2000, rate_per_s=12)
    with working(kafka, inference_server, "race") as worker:
        publish(kafka, ticks[:500])
        finish_with_snapshots(worker, 500)
        publish(kafka, ticks[500:1000])
        finish(worker, 1000)
    publish(kafka, ticks[1000:])
    bounds = module._Log.bounds

    def delete_after(log: module._Log, topic: str, partition: int) -> tuple[int, int]:
        """Kafka deletes records as soon as the worker has looked where they begin."""
        known = bounds(log, topic, partition)
        if topic == kafka.topics.raw and known[0] == 0:
            delete_before(kafka, 800)
        return known

    monkeypatch.setattr(module._Log, "bounds", delete_after)
    with working(kafka, inference_server, "race") as worker:
        finish(worker, 1000)
        assert worker.totals.records.gaps == {"retention": 1}
    rows = {row.sequence_num: row for row in rows_on_topic(kafka, 2000) if row.source_offset >= 1000}
    expected = compute_features(ticks[800:]).rows
    for i in range(200, 1200):
        row = rows[int(expected.sequence_num[i])]
        assert np.array(row.values).tobytes() == expected.values[i].tobytes()


def test_a_feature_row_that_is_on_the_topic_twice_is_predicted_once(kafka: KafkaConfig, inference_server: str) -> None:
    publish(kafka, market(2000, rate_per_s=12))
    with working(kafka, nowhere(), "twice", guarantee="at_least_once") as worker:
        step_until(worker, lambda: worker.totals.consumed == 2000)
        worker.commit()
    sink = Sink(kafka)
    for message in read_all(kafka, kafka.topics.features, 2000):
        sink.send(kafka.topics.features, message.key() or b"", message.value() or b"")
    sink.flush()
    sink.close()
    with working(kafka, inference_server, "twice") as worker:
        step_until(worker, lambda: worker.totals.predictions > 0)
        finish(worker, 0)
    warm = {row.source_offset for row in rows_on_topic(kafka, 4000) if row.warm}
    assert sorted(one.source_offset for one in predictions_of(kafka, len(warm))) == sorted(warm)


def test_rows_of_a_former_schema_are_marked_missing(kafka: KafkaConfig, inference_server: str) -> None:
    ticks = market(6000, rate_per_s=12)
    publish(kafka, ticks)
    with working(kafka, nowhere(), "schema") as worker:
        step_until(worker, lambda: worker.totals.consumed == len(ticks))
        worker.commit()
    with working(kafka, inference_server, "schema", schema=FULL_1, model="full") as worker:
        step_until(worker, lambda: bool(worker.totals.missing))
        worker.commit()
    warm = {row.source_offset for row in rows_on_topic(kafka, len(ticks)) if row.warm}
    predictions = predictions_of(kafka, len(warm))
    assert sorted(each.source_offset for each in predictions) == sorted(warm)
    assert {each.missing_reason for each in predictions} == {MissingReason.MISSING_REASON_SCHEMA_CHANGED}
    with working(kafka, inference_server, "schema", schema=FULL_1, model="full") as worker:
        finish(worker, 0)
    assert len(predictions_of(kafka, len(warm))) == len(warm)
