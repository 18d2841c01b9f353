"""The reading behind `volcast check`: a record that is on its way, or that retention took, is not lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from common.config import Config, KafkaConfig, WorkerConfig
from common.schema import CORE_1
from pipeline.commands.check import _Look
from pipeline.records import Tick, encode
from pipeline.stream import audit
from pipeline.stream.audit import CLOCK_SKEW_MS, TopicReader
from pipeline.stream.kafka import connect, make_producer
from pipeline.stream.marker import Marker, to_metadata
from pipeline.stream.reconcile import Account
from tests.pipeline.stream.test_exactly_once import delete_before, raw_transaction
from tests.pipeline.stream.test_path import finish, publish, working
from tests.pipeline.stream.ticks import market
from volcast.v1 import FeatureRow

pytestmark = pytest.mark.kafka

STEP_MS = 10_000
# Recent, so that Kafka's own retention takes none of the records.
T0_MS = int(time.time() * 1000) - 200 * STEP_MS


class Topics:
    """ticks.raw and ticks.features with a record of each tick, written by hand."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self.kafka = kafka
        self.config = Config(kafka=kafka, worker=WorkerConfig(group_id=f"group-{kafka.topics.raw}"))
        self.producer = make_producer(kafka)
        self.admin: AdminClient = connect(kafka)
        self.count = 0

    def ticks(self, count: int, *, rows: bool = True, without: Sequence[int] = ()) -> None:
        for tick in market(self.count + count)[self.count :]:
            time_ms = T0_MS + self.count * STEP_MS
            self.producer.produce(self.kafka.topics.raw, encode(tick), b"key", timestamp=time_ms)
            if rows and self.count not in without:
                value = row(tick, self.count)
                self.producer.produce(self.kafka.topics.features, value, b"key", timestamp=time_ms + 1)
            self.count += 1
        self.producer.flush(10)

    def commit(self, offset: int, **marker: Any) -> None:
        """The worker's group commits."""
        metadata = to_metadata(Marker(1, "lineage", 0, **marker))
        place = TopicPartition(self.kafka.topics.raw, 0, offset, metadata)
        request = ConsumerGroupTopicPartitions(self.config.worker.group_id, [place])
        (done,) = self.admin.alter_consumer_group_offsets([request]).values()
        done.result(10)

    def delete(self, topic: str, before: int) -> None:
        (done,) = self.admin.delete_records([TopicPartition(topic, 0, before)]).values()
        done.result(10)


def row(tick: Tick, offset: int) -> bytes:
    return FeatureRow(
        product_id=tick.product_id, event_time_ns=tick.event_time_ns, schema_hash=CORE_1.hash, values=[1.0] * 11,
        venue=tick.venue, source_partition=0, source_offset=offset,
    ).SerializeToString()  # fmt: skip


@contextmanager
def reading(config: Config, from_start: bool) -> Iterator[tuple[TopicReader, _Look]]:
    reader = TopicReader(config.kafka, from_start=from_start)
    try:
        yield reader, _Look(config, reader.first)
    finally:
        reader.close()


def judged(reader: TopicReader, look: _Look, group: str) -> Account:
    standing = reader.standing(group)
    assert reader.read_to_end(look.show, threading.Event()) == {}
    return look.books.account(standing.progress, reader.judged_from())


@pytest.fixture
def topics(kafka: KafkaConfig) -> Topics:
    return Topics(kafka)


def test_ticks_that_come_while_the_reading_begins_are_not_lost(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    watermarks = audit.watermarks

    def busy(*arguments: Any) -> tuple[int, int]:
        """Between any two requests of the reader a tick, its row and a commit arrive."""
        topics.ticks(1)
        topics.commit(topics.count)
        return watermarks(*arguments)

    monkeypatch.setattr(audit, "watermarks", busy)
    with reading(topics.config, from_start=False) as (reader, look):
        monkeypatch.undo()
        account = judged(reader, look, topics.config.worker.group_id)
    assert not account.faults


def test_rows_that_become_readable_after_their_offsets_are_waited_for(topics: Topics) -> None:
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

    with reading(topics.config, from_start=True) as (reader, look):
        later = threading.Thread(target=commit_later)
        later.start()
        account = judged(reader, look, topics.config.worker.group_id)
        later.join()
    assert (account.rows, dict(account.faults)) == (5, {})


def test_a_transaction_that_stays_open_is_reported(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "OPEN_TRANSACTIONS_S", 1.5)
    producer = make_producer(topics.kafka, **{"transactional.id": f"t-{topics.kafka.topics.raw}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topics.kafka.topics.features, b"", b"key")
    producer.flush(10)
    with reading(topics.config, from_start=True) as (reader, look):
        left = reader.read_to_end(look.show, threading.Event())
    producer.abort_transaction(30)
    assert left == {(topics.kafka.topics.features, 0): 1}


def test_rows_that_retention_took_are_not_lost_and_a_lost_one_is_still_named(topics: Topics) -> None:
    topics.ticks(100, without=[30, 80])
    topics.commit(100)
    topics.delete(topics.kafka.topics.raw, 10)
    topics.delete(topics.kafka.topics.features, 50)  # the row of tick 51
    with reading(topics.config, from_start=True) as (reader, look):
        account = judged(reader, look, topics.config.worker.group_id)
        first = reader.judged_from()
    assert first == {0: 51 + CLOCK_SKEW_MS // STEP_MS + 1}
    assert account.named == [f"{topics.kafka.topics.raw}[0]@80: neither feature row nor late, dead or gap"]


def test_if_retention_took_every_row_nothing_is_judged(topics: Topics) -> None:
    topics.ticks(20)
    topics.commit(20)
    topics.delete(topics.kafka.topics.features, 20)
    with reading(topics.config, from_start=True) as (reader, look):
        account = judged(reader, look, topics.config.worker.group_id)
    assert account == Account()


def test_records_that_kafka_deleted_unread_are_named_and_are_no_lag(topics: Topics) -> None:
    topics.ticks(40)
    topics.commit(10)
    topics.delete(topics.kafka.topics.raw, 25)
    with reading(topics.config, from_start=True) as (reader, _):
        standing = reader.standing(topics.config.worker.group_id)
    assert (standing.lag, standing.lost) == (15, {0: (25, 15)})


@pytest.mark.parametrize(("from_start", "lost"), [(True, {0: (25, 0)}), (False, {})])
def test_records_that_the_worker_passed_over_are_named(
    topics: Topics, from_start: bool, lost: dict[int, tuple[int, int]]
) -> None:
    topics.ticks(40)
    topics.delete(topics.kafka.topics.raw, 25)
    topics.commit(40, broken_at=25)
    with reading(topics.config, from_start=from_start) as (reader, _):
        assert reader.standing(topics.config.worker.group_id).lost == lost


def test_aborted_transactions_restarts_and_retention_of_a_real_worker_are_no_losses(
    kafka: KafkaConfig, inference_server: str
) -> None:
    ticks = market(2400, rate_per_s=12)
    for start in (0, 800, 1600):
        raw_transaction(kafka, market(20, seed=9), commit=False)
        publish(kafka, ticks[start : start + 800])
        with working(kafka, inference_server, "check", max_batch_ticks=50, commit_interval_ms=20) as worker:
            finish(worker, 800)
    config = Config(kafka=kafka, worker=WorkerConfig(group_id=f"check-{kafka.topics.raw}"))
    with reading(config, from_start=True) as (reader, look):
        account = judged(reader, look, config.worker.group_id)
    assert (account.records, account.rows, dict(account.faults)) == (2400, 2400, {})
    assert account.predictions > 500
    delete_before(kafka, 700)
    with reading(config, from_start=True) as (reader, look):
        account = judged(reader, look, config.worker.group_id)
    assert 0 < account.records < 2400
    assert not account.faults
