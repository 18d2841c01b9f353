"""Commits in flight: the worker goes on meanwhile, and a crash, a rebalance or an abort loses and repeats nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from common.config import KafkaConfig
from common.errors import UnavailableError
from pipeline.commands.worker import metrics
from pipeline.stream.kafka import Sink, connect, make_producer
from pipeline.stream.kafka_topics import ensure_topics
from pipeline.stream.marker import from_metadata
from pipeline.stream.restore import Restored
from pipeline.stream.transactions import FENCED_YOUNG_S, AbortedError, ExactlyOnce
from pipeline.stream.worker import Worker
from tests.pipeline.stream.fakes import TOPICS, Bench, messages_of
from tests.pipeline.stream.test_path import assert_same, finish, publish, rows_on_topic, step_until, working
from tests.pipeline.stream.test_worker_commits import ListWriter
from tests.pipeline.stream.ticks import market
from tests.processes import fresh_topics

MESSAGES = messages_of(market(1500))
TICKS = market(3000, rate_per_s=12)


def in_flight(**options: Any) -> Bench:
    """A commit of 700 ticks is in flight, and rows of 500 more wait."""
    bench = Bench(**options)
    bench.delivery.slow = True
    bench.feed(MESSAGES[:700])
    bench.feed(MESSAGES[700:1200])
    assert bench.delivery.offsets == {}
    assert bench.worker.totals.features == 1200
    return bench


def test_the_worker_goes_on_while_a_commit_is_in_flight() -> None:
    bench = in_flight()
    bench.delivery.slow = False
    bench.worker.step(0.1)
    assert bench.delivery.commits == 2
    assert bench.delivery.offsets[0] == 1200
    assert len(bench.delivery.features()) == 1200


def test_a_commit_in_flight_owes_the_predictions_that_come_after_its_start() -> None:
    bench = Bench()
    bench.delivery.slow = True
    bench.stream.hangs = True
    bench.feed(MESSAGES[:1200])
    assert bench.forecaster.backlog_rows
    bench.stream.hangs = False
    bench.feed(MESSAGES[1200:])  # too late for the commit in flight
    bench.delivery.slow = False
    bench.worker._finish_commit(wait=True)
    marker = from_metadata(bench.delivery.metadata[0])
    assert marker is not None
    assert marker.owed_from is not None
    assert bench.delivery.offsets[0] == 1200


@pytest.mark.parametrize("how", ["step", "revoke", "lost"])
def test_an_abort_voids_the_rows_that_wait_for_the_next_transaction_too(how: str) -> None:
    writer = ListWriter()
    bench = in_flight(writer=writer)
    bench.delivery.failure = AbortedError("fenced")
    bench.delivery.slow = False
    if how == "revoke":
        bench.revoke(1)
    elif how == "lost":
        bench.worker.on_lost(bench.consumer, [TopicPartition(TOPICS.raw, 1)])  # type: ignore[arg-type]
    bench.worker.step(0.1)
    bench.worker.step(0.1)
    assert bench.delivery.aborts > 0
    assert bench.delivery.features() == []
    assert writer.products == []
    assert bench.worker.totals.consumed == bench.worker.totals.features == 0
    assert bench.state.asked[-1] == ([0, 2, 3] if how != "step" else [0, 1, 2, 3])
    bench.feed(MESSAGES[:1200])
    bench.worker.commit()
    assert len(writer.products) == len(bench.delivery.features()) == 1200


def test_partitions_are_given_up_after_the_commit_in_flight_and_what_waits() -> None:
    bench = in_flight()
    bench.revoke(0)
    assert bench.delivery.commits == 2
    assert bench.delivery.offsets[0] == 1200


def test_of_lost_partitions_only_the_commit_in_flight_counts() -> None:
    writer = ListWriter()
    bench = in_flight(writer=writer)
    bench.worker.on_lost(bench.consumer, [TopicPartition(TOPICS.raw, 0)])  # type: ignore[arg-type]
    assert bench.delivery.commits == 1
    assert bench.delivery.offsets[0] == 700
    assert len(bench.delivery.features()) == len(writer.products) == bench.worker.totals.features == 700


def test_with_too_many_rows_waiting_the_worker_awaits_the_commit() -> None:
    bench = in_flight()
    bench.delivery.is_full = True
    bench.feed(MESSAGES[1200:])
    assert bench.delivery.offsets[0] == 700


def test_what_is_in_hand_is_committed_before_further_partitions_are_restored() -> None:
    bench = Bench(commit_interval_s=100.0)
    bench.feed(MESSAGES[:100])
    restore, commits = bench.state.restore, []

    def noting(numbers: Sequence[int]) -> list[Restored]:
        commits.append(bench.delivery.commits)
        return restore(numbers)

    bench.state.restore = noting  # type: ignore[method-assign]
    bench.assign(4)
    assert commits == [1]


@pytest.mark.parametrize("react", [lambda bench: bench.assign(4), lambda bench: bench.revoke(1)])
def test_a_transaction_is_aborted_before_a_rebalance_goes_on(react: Callable[[Bench], None]) -> None:
    bench = Bench(commit_interval_s=100.0)
    bench.feed(MESSAGES[:100])
    bench.delivery.failure = AbortedError("fenced")
    react(bench)
    assert bench.delivery.aborts == 1
    bench.worker.step(0.1)
    assert bench.worker.totals.consumed == 0


def test_metrics_never_fall() -> None:
    bench = Bench(commit_interval_s=100.0)
    consumer = SimpleNamespace(position=lambda _: [], assignment=list)
    counts = []
    for failure in (None, AbortedError("fenced"), None):
        bench.feed(MESSAGES[:100])
        samples = [sample for metric in metrics(bench.worker, consumer) for sample in metric.samples]  # type: ignore[arg-type]
        counts.append([sample.value for sample in samples if sample.name == "volcast_worker_features_total"])
        bench.delivery.failure = failure
        with suppress(AbortedError):
            bench.worker.commit()
        bench.worker.step(0.0)
    assert counts == [[0.0], [100.0], [100.0]]


@pytest.fixture
def divided(broker: str) -> KafkaConfig:
    """Topics of two partitions."""
    config = KafkaConfig(bootstrap_servers=broker, topics=fresh_topics(), partitions=2)
    ensure_topics(connect(config), config)
    return config


def delivery_of(worker: Worker) -> ExactlyOnce:
    assert isinstance(worker._delivery, ExactlyOnce)
    return worker._delivery


def before_the_end(worker: Worker, react: Callable[[int], None]) -> None:
    """Calls `react` in the thread of each commit between its offsets and its end, with the number of the commit."""
    delivery, calls = delivery_of(worker), 0
    produce = delivery._produce

    def watched(messages: Any) -> None:
        nonlocal calls
        produce(messages)
        if delivery._commit is not None:
            calls += 1
            react(calls)

    delivery._produce = watched  # type: ignore[method-assign]


class StopsAfterTheEnd:
    """A producer whose caller does not learn that its transaction was committed."""

    def __init__(self, producer: Any, stop: Callable[[int], None]) -> None:
        self._producer = producer
        self._stop = stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def commit_transaction(self, timeout_s: float) -> None:
        self._producer.commit_transaction(timeout_s)
        self._stop(0)


@pytest.mark.parametrize("committed", [False, True], ids=["before_its_end", "after_its_end"])
def test_a_worker_that_stops_in_a_commit_is_followed_by_the_same_bits(
    kafka: KafkaConfig, inference_server: str, committed: bool
) -> None:
    """As after kill -9, or SIGSTOP: once the next worker has done its work, the first goes on and must not commit."""
    stopped, resumed = threading.Event(), threading.Event()

    def stop(_: int) -> None:
        stopped.set()
        resumed.wait(60)

    start = partial(working, kafka, inference_server, "stops", max_batch_ticks=100, instance_id="same")
    with start(commit_interval_ms=0) as first:
        publish(kafka, TICKS[:1000])
        finish(first, 1000)
        delivery = delivery_of(first)
        if committed:
            delivery._producer = StopsAfterTheEnd(delivery._producer, stop)  # type: ignore[assignment]
        else:
            before_the_end(first, stop)
        publish(kafka, TICKS[1000:])
        step_until(first, lambda: stopped.is_set() and bool(delivery._waiting))
        with start() as second:
            last = TICKS[-1].sequence_num
            step_until(second, lambda: last in {row.sequence_num for row in rows_on_topic(kafka, 0)})
            step_until(second, lambda: not second.forecaster.backlog_rows)
            second.commit()
            assert second.totals.consumed < 2000 if committed else second.totals.consumed == 2000
        resumed.set()
    assert_same(kafka, TICKS)


def test_a_rebalance_while_a_commit_is_in_flight(divided: KafkaConfig, inference_server: str) -> None:
    publish(divided, TICKS[:1000])
    later = iter(range(1000, len(TICKS), 100))
    start = partial(working, divided, inference_server, "rebalanced", max_batch_ticks=50, commit_interval_ms=1)
    revoked_in_flight = []
    with start() as first:
        before_the_end(first, lambda _: time.sleep(0.2))
        revoke = first.on_revoke

        def on_revoke(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            revoked_in_flight.append(first._commit_in_flight is not None)
            revoke(consumer, partitions)

        consumer = first._consumer
        consumer.unsubscribe()
        consumer.subscribe([divided.topics.raw], on_assign=first.on_assign, on_revoke=on_revoke, on_lost=first.on_lost)
        step_until(first, lambda: first.totals.consumed >= 1000)
        with start() as second:

            def both() -> bool:
                second.step(0)
                if (at := next(later, None)) is not None:
                    publish(divided, TICKS[at : at + 100])
                return first.totals.consumed + second.totals.consumed >= len(TICKS)

            step_until(first, both)
            for worker in (first, second):
                step_until(worker, lambda worker=worker: not worker.forecaster.backlog_rows)  # type: ignore[misc]
                worker.commit()
            assert second.totals.consumed > 0
    assert True in revoked_in_flight
    assert_same(divided, TICKS)


def test_an_abort_while_rows_of_the_next_transaction_wait(kafka: KafkaConfig, inference_server: str) -> None:
    publish(kafka, TICKS)
    waiting = []
    with working(kafka, inference_server, "fenced", max_batch_ticks=100, commit_interval_ms=1) as worker:
        delivery = delivery_of(worker)

        def fence(number: int) -> None:
            if number != 1:
                return
            deadline_s = time.monotonic() + 10
            while not delivery._waiting and time.monotonic() < deadline_s:
                time.sleep(0.01)
            waiting.append(len(delivery._waiting))
            delivery._producer_since_s -= FENCED_YOUNG_S
            intruder = make_producer(kafka, **{"transactional.id": delivery._id})
            intruder.init_transactions(30)
            intruder.close()

        before_the_end(worker, fence)
        step_until(worker, lambda: bool(waiting) and delivery._commit is None and not worker._stale)
        finish(worker, 3000)
    assert waiting[0] > 0
    assert_same(kafka, TICKS)


def test_a_topic_that_refuses_a_message_ends_the_worker(kafka: KafkaConfig, inference_server: str) -> None:
    admin = connect(kafka)
    limit = ConfigEntry("max.message.bytes", "1000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, kafka.topics.dead, incremental_configs=[limit])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)
    sink = Sink(kafka)
    sink.send(kafka.topics.raw, b"key", b"{" * 5000)  # becomes a dead letter
    sink.flush()
    sink.close()
    with (
        working(kafka, inference_server, "refused") as worker,
        pytest.raises(UnavailableError, match=r"a message for dead-[0-9-]+ is refused: .*[Mm]essage size too large"),
    ):
        step_until(worker, lambda: False)


def test_of_two_workers_with_one_name_the_later_goes_on(kafka: KafkaConfig, inference_server: str) -> None:
    publish(kafka, TICKS[:200])
    start = partial(working, kafka, inference_server, "named", instance_id="same", commit_interval_ms=1)
    with start() as first, start() as second:

        def both() -> bool:
            second.step(0.01)
            return second.totals.consumed == 200

        with suppress(UnavailableError):
            step_until(first, both)
        finish(second, 200)
        publish(kafka, TICKS[200:])
        finish(second, len(TICKS))
    assert_same(kafka, TICKS)
