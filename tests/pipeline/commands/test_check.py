"""`volcast check` on real topics: its exit code tells whether they are as they should be."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition

from cli.main import run_command
from common.config import KafkaConfig
from common.schema import CORE_1, FULL_1, FULL_2
from pipeline.commands.check import _report
from pipeline.records import encode
from pipeline.stream import kafka as module
from pipeline.stream.inspect import Inspection
from pipeline.stream.kafka import Sink, connect, make_consumer, make_producer
from pipeline.stream.marker import FORMAT_VERSION, Marker, to_metadata
from pipeline.stream.reconcile import Account
from tests.pipeline.stream.ticks import market
from tests.processes import as_environ, fresh_topics
from volcast.v1 import FeatureRow, Prediction


@pytest.fixture
def topics(kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> KafkaConfig:
    for name, value in as_environ(kafka).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VOLCAST_WORKER__GROUP_ID", request.node.name)
    return kafka


def put(kafka: KafkaConfig, topic: str, *values: bytes) -> None:
    sink = Sink(kafka)
    for value in values:
        sink.send(topic, b"BTC-USD", value)
    sink.flush()
    sink.close()


def good(kafka: KafkaConfig, count: int = 20) -> None:
    ticks = market(count)
    put(kafka, kafka.topics.raw, *map(encode, ticks))
    rows = [
        FeatureRow(
            product_id=one.product_id, event_time_ns=one.event_time_ns, schema_hash=CORE_1.hash, values=[1.0] * 11
        )
        for one in ticks
    ]
    put(kafka, kafka.topics.features, *(row.SerializeToString() for row in rows))
    put(kafka, kafka.topics.predictions, Prediction(probability=0.25, threshold=0.5).SerializeToString())


def checked(capfd: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    code = run_command(["check", "--from-start", "--duration", "400ms", "--json", *options])
    return code, json.loads(capfd.readouterr().out)


def test_good_topics_are_as_they_should_be(topics: KafkaConfig, capfd: pytest.CaptureFixture[str]) -> None:
    good(topics)
    code, report = checked(capfd)
    assert (code, report["ok"], report["problems"]) == (0, True, [])
    assert report["records"] == {"raw": 20, "features": 20, "predictions": 1}
    assert report["not_warm"] == 20
    assert report["worker_lag"] is None
    assert set(report["newest_event_ns"]) == {"BTC-USD", "ETH-USD"}


def test_ticks_without_a_feature_row_are_not(topics: KafkaConfig, capfd: pytest.CaptureFixture[str]) -> None:
    put(topics, topics.topics.raw, *map(encode, market(20)))
    code, report = checked(capfd)
    assert code == 1
    assert report["problems"] == ["no feature row came on ticks.features; is `volcast worker` running?"]


def test_topics_without_a_tick_are_not(topics: KafkaConfig, capfd: pytest.CaptureFixture[str]) -> None:
    code, report = checked(capfd)
    assert code == 1
    assert report["problems"] == ["no tick came on ticks.raw; is `volcast ingest` running?"]


def test_only_what_comes_from_now_on_counts_unless_asked(
    topics: KafkaConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    good(topics)
    assert run_command(["check", "--duration", "300ms", "--json"]) == 1
    report = json.loads(capfd.readouterr().out)
    assert report["records"] == {}
    assert report["problems"] == ["no tick came on ticks.raw; is `volcast ingest` running?"]


@pytest.mark.parametrize(
    ("role", "value", "problem"),
    [
        ("raw", b"garbage", "1 x ticks.raw: a record that is neither tick nor gap"),
        ("features", b"garbage", "1 x ticks.features: not a FeatureRow"),
        (
            "features",
            FeatureRow(product_id="X", schema_hash="000000000000", values=[1.0] * 11).SerializeToString(),
            f"1 x ticks.features: schema 000000000000, expected {CORE_1.hash} or {FULL_1.hash} or {FULL_2.hash}",
        ),
        ("predictions", b"\xff", "1 x predictions: not a Prediction"),
        ("late", b"{}", "1 x ticks.late: not a late tick"),
        ("dead", b"[]", "1 x ticks.dead: not a dead letter"),
    ],
)
def test_a_record_that_breaks_its_contract_is_told(
    role: str, value: bytes, problem: str, topics: KafkaConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    good(topics)
    put(topics, getattr(topics.topics, role), value)
    code, report = checked(capfd)
    assert (code, report["problems"]) == (1, [problem])


def test_the_lag_is_that_of_the_workers_group(
    topics: KafkaConfig, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    good(topics)
    put(topics, topics.topics.raw, encode(market(1)[0]))
    consumer = make_consumer(topics, request.node.name)
    consumer.commit(offsets=[TopicPartition(topics.topics.raw, 0, 5)], asynchronous=False)
    consumer.close()
    assert checked(capfd)[1]["worker_lag"] == 21 - 5


@pytest.mark.parametrize(
    ("lag", "allowed", "ok"), [(1000, 1000, True), (1001, 1000, False), (2000, 2000, True), (9000, 2000, False)]
)
def test_a_worker_that_is_behind_by_more_than_two_seconds_of_records_is_told(lag: int, allowed: int, ok: bool) -> None:
    look = Inspection()
    look.counts["raw"] = look.counts["features"] = 10 * allowed // 2
    report = _report(look, 10.0, {"raw": allowed / 2}, lag, Account())
    problem = f"the worker is {lag} records behind, expected at most {allowed}"
    assert report["problems"] == ([] if ok else [problem])


def test_for_people_problems_are_named_whatever_they_hold(
    topics: KafkaConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    good(topics)
    row = FeatureRow(product_id="X", schema_hash="[/red]", values=[1.0] * 11)
    put(topics, topics.topics.features, row.SerializeToString())
    assert run_command(["check", "--from-start", "--duration", "400ms"]) == 1
    shown = " ".join(capfd.readouterr().out.split())
    assert f"problem: 1 x ticks.features: schema [/red], expected {CORE_1.hash} or {FULL_1.hash}" in shown
    assert "not as it should be" in shown


def test_a_topic_that_is_missing_is_one_line_that_says_who_makes_it(
    topics: KafkaConfig, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = fresh_topics().raw
    monkeypatch.setenv("VOLCAST_KAFKA__TOPICS__RAW", missing)
    assert run_command(["check", "--duration", "1"]) == 1
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == (
        f"volcast: kafka: there is no topic {missing} that this login may see; "
        "`volcast ingest` and `volcast worker` make it\n"
    )


def commit(kafka: KafkaConfig, offset: int, group: str) -> None:
    """What a worker's commit states."""
    metadata = to_metadata(Marker(FORMAT_VERSION, "lineage", 0))
    consumer = make_consumer(kafka, group)
    consumer.commit(offsets=[TopicPartition(kafka.topics.raw, 0, offset, metadata)], asynchronous=False)
    consumer.close()


def sourced(offsets: Iterable[int]) -> list[bytes]:
    return [
        FeatureRow(
            venue="coinbase", product_id="BTC-USD", schema_hash=CORE_1.hash, values=[1.0] * 11, source_offset=offset
        ).SerializeToString()
        for offset in offsets
    ]


def test_a_tick_that_comes_while_the_ends_are_looked_up_is_reconciled(
    topics: KafkaConfig,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_up = module.watermarks
    put_already: list[bool] = []

    def and_a_tick_comes(consumer: Consumer, partition: TopicPartition, timeout_s: float) -> tuple[int, int]:
        """A live worker turns a tick into a row between two look-ups."""
        known = look_up(consumer, partition, timeout_s)
        if partition.topic == topics.topics.raw and not put_already:
            put_already.append(True)
            put(topics, topics.topics.raw, encode(market(1)[0]))
            put(topics, topics.topics.features, *sourced([0]))
            commit(topics, 1, request.node.name)
        return known

    for name in ("pipeline.stream.reading.watermarks", "pipeline.commands.check.watermarks"):
        monkeypatch.setattr(name, and_a_tick_comes)
    run_command(["check", "--duration", "300ms", "--json"])
    report = json.loads(capfd.readouterr().out)
    assert report["problems"] == []
    assert report["reconciled"]["records"] == report["reconciled"]["rows"] == 1


def test_aborted_records_at_the_ends_are_neither_waited_for_nor_faults(
    topics: KafkaConfig, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    put(topics, topics.topics.raw, *map(encode, market(20)))
    put(topics, topics.topics.features, *sourced(range(20)))
    producer = make_producer(topics, **{"transactional.id": request.node.name})
    producer.init_transactions(30)
    producer.begin_transaction()
    for topic, value in ((topics.topics.features, sourced([3])[0]), (topics.topics.raw, b"void")):
        producer.produce(topic, value, b"BTC-USD")
    producer.flush(30)
    producer.abort_transaction(30)
    producer.close()
    commit(topics, 20, request.node.name)
    code, report = checked(capfd)
    assert (code, report["problems"], report["reconciled"]["faults"]) == (0, [], [])
    assert report["reconciled"]["records"] == report["reconciled"]["rows"] == 20


def test_rows_that_retention_deleted_are_no_faults(
    topics: KafkaConfig,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.stream.reconcile.OUT_OF_ORDER_ROWS", 5)
    put(topics, topics.topics.raw, *map(encode, market(20)))
    put(topics, topics.topics.features, *sourced(range(20)))
    admin = connect(topics)
    (future,) = admin.delete_records([TopicPartition(topics.topics.features, 0, 8)]).values()
    future.result(30)
    commit(topics, 20, request.node.name)
    code, report = checked(capfd)
    assert (code, report["problems"]) == (0, [])
    assert (report["reconciled"]["not_judged"], report["reconciled"]["rows"]) == (13, 7)


def test_the_report_has_a_json_form_a_script_can_read(topics: KafkaConfig, capfd: pytest.CaptureFixture[str]) -> None:
    good(topics)
    _, report = checked(capfd)
    assert set(report) == {
        "ok", "problems", "duration_s", "records", "per_second", "gaps", "gap_spans", "gap_spans_left_out", "late",
        "dead", "not_warm", "went_back", "missing", "worker_lag", "reconciled", "newest_event_ns",
    }  # fmt: skip
    assert msgspec.json.encode(report)
