"""Exactly once on a real Kafka: absent servers, lost records, restarts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks.processes import free_port
from common.config import KafkaConfig
from common.errors import UnavailableError
from pipeline.features.table import compute_features
from pipeline.records import Tick, encode, record_key
from pipeline.stream import partition as partition_module
from pipeline.stream.instance_name import InstanceName
from pipeline.stream.kafka import make_producer
from tests.pipeline.stream.test_path import assert_same, finish, publish, rows_on_topic, step_until, working
from tests.pipeline.stream.ticks import market
from tests.processes import read_all
from volcast.v1 import FeatureRow, MissingReason, Prediction

pytestmark = pytest.mark.kafka


def predictions_of(kafka: KafkaConfig, least: int = 0) -> list[Prediction]:
    return [Prediction.FromString(one.value() or b"") for one in read_all(kafka, kafka.topics.predictions, least)]


def nowhere() -> str:
    return f"127.0.0.1:{free_port()}"


def test_restarts_without_a_server_repeat_nothing_and_every_prediction_follows(
    kafka: KafkaConfig, inference_server: str
) -> None:
    ticks = market(6000, rate_per_s=12)
    for start in (0, 2000, 4000):
        publish(kafka, ticks[start : start + 2000])
        with working(kafka, nowhere(), "absent", max_batch_ticks=100) as worker:
            step_until(worker, lambda worker=worker: worker.totals.consumed == 2000)  # type: ignore[misc]
            worker.commit()
            assert worker.totals.features == 2000
            assert worker.totals.predictions == 0
    assert len(rows_on_topic(kafka, 6000)) == 6000
    with working(kafka, inference_server, "absent") as worker:
        step_until(worker, lambda: worker.totals.predictions > 0)
        finish(worker, 0)
        assert worker.totals.predictions > 3000
    assert_same(kafka, ticks)


def test_an_absent_server_does_not_delay_a_commit(kafka: KafkaConfig) -> None:
    ticks = market(3000, rate_per_s=12)
    publish(kafka, ticks)
    with working(kafka, nowhere(), "no-delay", commit_interval_ms=50) as worker:
        step_until(worker, lambda: worker.totals.consumed == 3000)
        step_until(worker, lambda: not worker._uncommitted)
        assert worker.forecaster.backlog_rows > 500
        assert len(rows_on_topic(kafka, 3000)) == 3000


def test_rows_over_the_limit_are_marked_missing_once_even_over_restarts(
    kafka: KafkaConfig, inference_server: str
) -> None:
    ticks = market(6000, rate_per_s=12)
    for start in (0, 3000):
        publish(kafka, ticks[start : start + 3000])
        with working(kafka, nowhere(), "limit", max_batch_ticks=100, max_backlog_rows=1500) as worker:
            step_until(worker, lambda worker=worker: worker.totals.consumed == 3000)  # type: ignore[misc]
            worker.commit()
    with working(kafka, inference_server, "limit") as worker:
        step_until(worker, lambda: worker.totals.predictions > 0)
        finish(worker, 0)
    warm = {(row.source_partition, row.source_offset) for row in rows_on_topic(kafka, 6000) if row.warm}
    got = Counter((one.source_partition, one.source_offset) for one in predictions_of(kafka, len(warm)))
    assert got == Counter(warm)
    reasons = Counter(one.missing_reason for one in predictions_of(kafka, len(warm)))
    answered = reasons[MissingReason.MISSING_REASON_UNSPECIFIED]
    assert reasons[MissingReason.MISSING_REASON_SERVER_UNAVAILABLE] == len(warm) - answered
    assert 0 < answered <= 1500


def test_a_restart_reads_few_records_though_a_product_was_quiet(
    kafka: KafkaConfig, inference_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_module, "MAX_REPLAY_RECORDS", 1000)
    ticks = market(8000, rate_per_s=12)
    quiet = [
        msgspec.structs.replace(tick, product_id="QUIET-USD")
        for tick in market(1000, rate_per_s=2)
        if "BTC" in tick.product_id
    ]
    latest = max(quiet[-1], ticks[-1], key=lambda tick: tick.event_time_ns)
    last = msgspec.structs.replace(
        quiet[-1], event_time_ns=latest.event_time_ns + 1, ingest_time_ns=latest.ingest_time_ns + 1, sequence_num=99_999
    )
    records = [*quiet, *ticks]
    publish(kafka, records)
    with working(kafka, inference_server, "quiet", max_batch_ticks=200, commit_interval_ms=60_000) as worker:
        finish(worker, len(records))
    publish(kafka, [last])
    absorbed: list[int] = []
    absorb = partition_module.Partition.absorb

    def counting(self: partition_module.Partition, messages: Sequence[object]) -> object:
        absorbed.append(len(messages))
        return absorb(self, messages)  # type: ignore[arg-type]

    monkeypatch.setattr(partition_module.Partition, "absorb", counting)
    with working(kafka, inference_server, "quiet") as worker:
        finish(worker, 1)
    assert sum(absorbed) <= 1000 + 1
    assert_same(kafka, [*records, last])


def raw_transaction(kafka: KafkaConfig, ticks: Sequence[Tick], commit: bool) -> None:
    producer = make_producer(kafka, **{"transactional.id": f"raw-{kafka.topics.raw}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for tick in ticks:
        producer.produce(kafka.topics.raw, encode(tick), record_key(tick.venue, tick.product_id).encode())
    if commit:
        producer.commit_transaction(30)
    else:
        producer.flush(30)
        producer.abort_transaction(30)
    producer.close()


def test_offsets_that_transactions_skip_are_no_gaps(kafka: KafkaConfig, inference_server: str) -> None:
    ticks = market(3000, rate_per_s=12)
    with working(kafka, inference_server, "skips") as worker:
        for start in range(0, 3000, 1000):
            raw_transaction(kafka, market(50, seed=9), commit=False)
            raw_transaction(kafka, ticks[start : start + 1000], commit=True)
        finish(worker, 3000)
        assert worker.totals.records.gaps == {}
        assert worker.totals.lost_records == 0
    assert_same(kafka, ticks)


def delete_before(kafka: KafkaConfig, offset: int) -> None:
    """What retention does, at once."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    (future,) = admin.delete_records([TopicPartition(kafka.topics.raw, 0, offset)]).values()
    future.result(30)


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_retention_that_overtakes_a_worker_is_a_gap(kafka: KafkaConfig, inference_server: str, running: bool) -> None:
    ticks = market(6000, rate_per_s=12)
    publish(kafka, ticks[:2000])
    with ExitStack() as lifetime:
        worker = lifetime.enter_context(working(kafka, inference_server, "overtaken", commit_interval_ms=10))
        finish(worker, 2000)
        if not running:
            lifetime.close()
        else:
            # The worker's position stays at 2000 while the records behind it go: it must not have fetched them.
            assignment = [TopicPartition(kafka.topics.raw, 0, 2000)]
            worker._consumer.pause(assignment)
        publish(kafka, ticks[2000:])
        delete_before(kafka, 3000)
        if running:
            worker._consumer.resume(assignment)
        else:
            worker = lifetime.enter_context(working(kafka, inference_server, "overtaken"))
        done = 2000 if running else 0
        finish(worker, done + 3000)
        assert worker.totals.records.gaps == {"retention": 1}
        assert worker.totals.lost_records == 1000
        assert worker.stats()["gaps_by_reason"] == {"retention": 1}
    rows = {row.source_offset: row for row in rows_on_topic(kafka, 5000)}
    assert set(rows) == {*range(2000), *range(3000, 6000)}
    # After the hole: what windows over the rest alone give.
    expected = compute_features(ticks[3000:]).rows
    by_sequence = {int(number): i for i, number in enumerate(expected.sequence_num)}
    for offset in range(3000, 6000):
        row = rows[offset]
        assert np.array(row.values).tobytes() == expected.values[by_sequence[row.sequence_num]].tobytes()
    assert not rows[3000].warm
    assert rows[5999].warm


def test_at_least_once_gives_the_same_rows_when_nothing_fails(kafka: KafkaConfig, inference_server: str) -> None:
    ticks = market(4000, rate_per_s=12)
    publish(kafka, ticks)
    with working(kafka, inference_server, "least", guarantee="at_least_once") as worker:
        step_until(worker, lambda: worker.totals.consumed >= 2000)
        worker.commit()
    with working(kafka, inference_server, "least", guarantee="at_least_once") as second:
        finish(second, 4000 - worker.totals.consumed)
    assert_same(kafka, ticks)


def test_records_of_another_partition_name_their_source(kafka: KafkaConfig, inference_server: str) -> None:
    ticks = market(1500, rate_per_s=12)
    publish(kafka, ticks)
    with working(kafka, inference_server, "source") as worker:
        finish(worker, 1500)
    rows: list[FeatureRow] = rows_on_topic(kafka, 1500)
    assert sorted(row.source_offset for row in rows) == list(range(1500))
    by_sequence = {tick.sequence_num: tick for tick in ticks}
    for row in rows:
        tick = by_sequence[row.sequence_num]
        depth = tick.bid_quantity + tick.ask_quantity
        assert (row.venue, row.bid, row.ask) == ("coinbase", tick.bid, tick.ask)
        assert row.imbalance == (tick.bid_quantity - tick.ask_quantity) / depth
    quoted = {row.source_offset: (row.bid, row.ask, row.imbalance, row.venue) for row in rows}
    for one in predictions_of(kafka, 100):
        assert (one.bid, one.ask, one.imbalance, one.venue) == quoted[one.source_offset]


def test_without_a_place_for_locks_the_message_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match=r"set worker\.instance_id"):
        InstanceName("g", tmp_path / "file" / "folder")


def test_a_lock_that_cannot_be_opened_names_the_key_too(tmp_path: Path) -> None:
    (tmp_path / "worker-g-0.lock").mkdir()
    with pytest.raises(UnavailableError, match=r"worker-g-0\.lock cannot be locked .*set worker\.instance_id"):
        InstanceName("g", tmp_path)


def test_a_name_is_free_again_when_its_worker_is_gone(tmp_path: Path) -> None:
    first, second, other = InstanceName("g", tmp_path), InstanceName("g", tmp_path), InstanceName("h", tmp_path)
    assert first.name == other.name != second.name
    first.close()
    third = InstanceName("g", tmp_path)
    assert third.name == first.name
    for name in (second, third, other):
        name.close()
