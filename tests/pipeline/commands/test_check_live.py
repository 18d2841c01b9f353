"""`volcast check` beside live workers: a record that is on its way, or that retention took, is not lost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from cli.main import run_command
from common.config import KafkaConfig
from common.schema import CORE_1
from pipeline.records import Tick, encode
from pipeline.stream import kafka, reading
from pipeline.stream.kafka import connect, make_producer
from pipeline.stream.marker import FORMAT_VERSION, Marker, to_metadata
from tests.pipeline.stream.test_exactly_once import raw_transaction
from tests.pipeline.stream.test_path import finish, publish, working
from tests.pipeline.stream.ticks import market
from tests.processes import as_environ
from volcast.v1 import FeatureRow

pytestmark = pytest.mark.kafka


class Topics:
    """ticks.raw and ticks.features, written by hand, and the commits of a worker's group."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self.kafka = kafka
        self.group_id = as_environ(kafka)["VOLCAST_WORKER__GROUP_ID"]
        self.producer = make_producer(kafka)
        self.admin = connect(kafka)
        self.count = 0

    def ticks(self, count: int, *, rows: bool = True) -> None:
        for tick in market(self.count + count)[self.count :]:
            self.producer.produce(self.kafka.topics.raw, encode(tick), b"key")
            if rows:
                self.producer.produce(self.kafka.topics.features, row(tick, self.count), b"key")
            self.count += 1
        self.producer.flush(10)

    def commit(self, offset: int, **marker: Any) -> None:
        metadata = to_metadata(Marker(FORMAT_VERSION, "lineage", 0, **marker))
        place = TopicPartition(self.kafka.topics.raw, 0, offset, metadata)
        (done,) = self.admin.alter_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(self.group_id, [place])]
        ).values()
        done.result(10)

    def delete(self, before: int) -> None:
        """What retention does, at once."""
        (done,) = self.admin.delete_records([TopicPartition(self.kafka.topics.raw, 0, before)]).values()
        done.result(10)


def row(tick: Tick, offset: int) -> bytes:
    return FeatureRow(
        product_id=tick.product_id, event_time_ns=tick.event_time_ns, schema_hash=CORE_1.hash, values=[1.0] * 11,
        venue=tick.venue, source_partition=0, source_offset=offset,
    ).SerializeToString()  # fmt: skip


@pytest.fixture
def topics(kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch) -> Topics:
    for name, value in as_environ(kafka).items():
        monkeypatch.setenv(name, value)
    return Topics(kafka)


def checked(capfd: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    capfd.readouterr()  # what a worker of the test has logged
    run_command(["check", "--duration", "200ms", "--json", *options])
    report: dict[str, Any] = json.loads(capfd.readouterr().out)
    return report


def test_ticks_that_come_while_the_reading_begins_are_not_lost(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def busy(call: Callable[..., Any]) -> Callable[..., Any]:
        """Before any request a tick, its row and a commit arrive."""

        def called(*arguments: Any) -> Any:
            topics.ticks(1)
            topics.commit(topics.count)
            return call(*arguments)

        return called

    monkeypatch.setattr(reading, "watermarks", busy(kafka.watermarks))
    monkeypatch.setattr("pipeline.commands.check.watermarks", busy(kafka.watermarks))
    monkeypatch.setattr("pipeline.commands.check.committed", busy(kafka.committed))
    report = checked(capfd)
    assert report["reconciled"]["records"] > 0
    assert report["reconciled"]["faults"] == []


def test_rows_that_become_readable_after_their_offsets_are_waited_for(
    topics: Topics, capfd: pytest.CaptureFixture[str]
) -> None:
    topics.ticks(5, rows=False)
    producer = make_producer(topics.kafka, **{"transactional.id": f"t-{topics.kafka.topics.raw}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for offset, tick in enumerate(market(5)):
        producer.produce(topics.kafka.topics.features, row(tick, offset), b"key")
    producer.flush(10)
    topics.commit(5)

    def commit_later() -> None:
        time.sleep(2.5)
        producer.commit_transaction(30)

    later = threading.Thread(target=commit_later)
    later.start()
    books = checked(capfd, "--from-start")["reconciled"]
    later.join()
    assert (books["rows"], books["faults"]) == (5, [])


def test_records_that_kafka_deleted_unread_are_named_and_are_no_lag(
    topics: Topics, capfd: pytest.CaptureFixture[str]
) -> None:
    topics.ticks(40)
    topics.commit(10)
    topics.delete(25)
    report = checked(capfd, "--from-start")
    (span,) = report["gap_spans"]
    assert (span["reason"], span["partition"], span["offset"], span["missed"]) == ("retention", 0, 25, 15)
    assert report["worker_lag"] == 15


@pytest.mark.parametrize(("options", "offsets"), [(["--from-start"], [25]), ([], [])])
def test_records_that_the_worker_passed_over_are_named(
    topics: Topics, options: list[str], offsets: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    topics.ticks(40)
    topics.delete(25)
    topics.commit(40, broken_at=25)
    assert [span["offset"] for span in checked(capfd, *options)["gap_spans"]] == offsets


def test_aborted_transactions_and_restarts_of_a_real_worker_are_no_losses(
    topics: Topics, inference_server: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka, ticks = topics.kafka, market(2400, rate_per_s=12)
    monkeypatch.setenv("VOLCAST_WORKER__GROUP_ID", f"check-{kafka.topics.raw}")
    for start in (0, 800, 1600):
        raw_transaction(kafka, market(20, seed=9), commit=False)
        publish(kafka, ticks[start : start + 800])
        with working(kafka, inference_server, "check", max_batch_ticks=50, commit_interval_ms=20) as worker:
            finish(worker, 800)
    books = checked(capfd, "--from-start")["reconciled"]
    assert (books["records"], books["rows"], books["faults"]) == (2400, 2400, [])
    assert books["predictions"] > 500
