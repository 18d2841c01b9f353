"""ExactlyOnce beside a producer whose calls fail, hang or never get an answer."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from common.config import KafkaConfig
from common.errors import ClientLostError, UnavailableError
from pipeline.stream import transactions
from pipeline.stream.transactions import FENCED_YOUNG_S, LOST_CALL_S, OUTAGE_S, AbortedError, ExactlyOnce


class Producer:
    """Every method succeeds but those that are replaced."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch) -> list[Producer]:
    """Those that deliveries make, the newest last."""
    made: list[Producer] = []

    def make(*_: object, **__: object) -> Producer:
        made.append(Producer())
        return made[-1]

    monkeypatch.setattr(transactions, "make_producer", make)
    return made


@pytest.fixture
def delivery(producers: list[Producer]) -> ExactlyOnce:
    return ExactlyOnce(KafkaConfig(), SimpleNamespace(consumer_group_metadata=lambda: None), "id")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["send_offsets_to_transaction", "commit_transaction", "abort_transaction"])
def test_a_call_of_librdkafka_that_never_returns_is_a_lost_client(
    name: str, producers: list[Producer], delivery: ExactlyOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, called, released = SimpleNamespace(now_s=1000.0), threading.Event(), threading.Event()
    monkeypatch.setattr(transactions, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    monkeypatch.setattr(transactions, "WATCH_S", 0.01)

    def hang(*_: object) -> None:
        called.set()
        released.wait(60)

    setattr(producers[0], name, hang)
    if name == "abort_transaction":
        delivery._begin()
        delivery._start(delivery._abort_open)
    else:
        delivery.start_commit([], [])
    assert called.wait(10)
    assert not delivery.finish_commit(wait=False)
    clock.now_s += LOST_CALL_S + 1
    with pytest.raises(ClientLostError, match="does not return within 15 s"):
        delivery.finish_commit(wait=True)
    closed: list[bool] = []
    producers[0].close = lambda: closed.append(True)  # type: ignore[attr-defined]
    delivery.close()  # returns
    assert not closed
    released.set()


FENCED = KafkaException(KafkaError(KafkaError._FENCED, "fenced", fatal=True))


@pytest.mark.parametrize("after_s", [FENCED_YOUNG_S - 1, FENCED_YOUNG_S + 1])
def test_only_a_producer_that_is_fenced_young_was_replaced_by_another_worker(
    after_s: float, producers: list[Producer], delivery: ExactlyOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now_s=time.monotonic())
    monkeypatch.setattr(transactions, "time", SimpleNamespace(monotonic=lambda: clock.now_s))

    def fenced(*_: object) -> None:
        raise FENCED

    for number in (1, 2):  # two restarts of a broker
        clock.now_s += after_s
        producers[-1].commit_transaction = producers[-1].abort_transaction = fenced  # type: ignore[attr-defined]
        delivery.start_commit([], [])
        with pytest.raises(AbortedError):
            delivery.finish_commit(wait=True)
        if after_s < FENCED_YOUNG_S:
            with pytest.raises(UnavailableError, match=r"does another worker have the same worker\.instance_id"):
                delivery.abort()
            return
        delivery.abort()
        assert len(producers) == 1 + number


def test_a_delivery_that_closes_starts_no_producer_that_would_fence_the_next_worker(
    producers: list[Producer], delivery: ExactlyOnce
) -> None:
    delivery._producer_since_s -= FENCED_YOUNG_S

    def fenced(*_: object) -> None:
        raise FENCED

    producers[0].abort_transaction = fenced  # type: ignore[attr-defined]
    delivery._begin()
    delivery.close()
    assert len(producers) == 1


def test_an_abort_that_only_times_out_is_left_to_a_new_producer(
    producers: list[Producer], delivery: ExactlyOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, released = SimpleNamespace(now_s=1000.0), threading.Event()
    monkeypatch.setattr(transactions, "time", SimpleNamespace(monotonic=lambda: clock.now_s, sleep=lambda _: None))
    monkeypatch.setattr(transactions, "CLOSE_S", 0.01)

    def time_out(*_: object) -> None:
        clock.now_s += 5
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "timed out", retriable=True))

    producers[0].abort_transaction = time_out  # type: ignore[attr-defined]
    producers[0].close = lambda: released.wait(60)  # type: ignore[attr-defined]
    delivery._begin()
    delivery.abort()
    assert clock.now_s == 1000 + 20
    assert len(producers) == 2
    delivery.start_commit([], [])
    assert delivery.finish_commit(wait=True)
    released.set()


def test_calls_that_fail_at_once_are_repeated_with_growing_pauses(
    producers: list[Producer], delivery: ExactlyOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now_s=1000.0)
    pauses: list[float] = []

    def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        clock.now_s += pause_s

    def busy(*_: object) -> None:
        raise KafkaException(KafkaError(KafkaError.CONCURRENT_TRANSACTIONS, "busy", retriable=True))

    monkeypatch.setattr(transactions, "time", SimpleNamespace(monotonic=lambda: clock.now_s, sleep=sleep))
    producers[0].commit_transaction = busy  # type: ignore[attr-defined]
    delivery.start_commit([], [])
    with pytest.raises(UnavailableError, match="a transaction cannot be ended: busy"):
        delivery.finish_commit(wait=True)
    assert pauses[:3] == [0.02, 0.04, 0.08]
    assert max(pauses) == 1.0
    assert sum(pauses) > 120


def test_a_worker_whose_transactions_are_all_aborted_ends(
    producers: list[Producer], delivery: ExactlyOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(transactions, "time", SimpleNamespace(monotonic=lambda: clock.now_s))

    def void(*_: object) -> None:
        raise KafkaException(KafkaError(KafkaError.TOPIC_DELETION_DISABLED, "void", txn_requires_abort=True))

    def commit() -> None:
        delivery.start_commit([], [])
        delivery.finish_commit(wait=True)

    for _ in range(2):
        producers[0].commit_transaction = void  # type: ignore[attr-defined]
        for _ in range(3):
            clock.now_s += 50
            with pytest.raises(AbortedError):
                commit()
            delivery.abort()
        del producers[0].commit_transaction
        commit()  # the count starts anew
    producers[0].commit_transaction = void  # type: ignore[attr-defined]
    with pytest.raises(AbortedError):
        commit()
    delivery.abort()
    clock.now_s += OUTAGE_S + 1
    with pytest.raises(UnavailableError, match="every transaction was aborted for 120 s: void"):
        commit()


def test_a_delivery_that_closes_does_not_wait_for_an_answer(producers: list[Producer], delivery: ExactlyOnce) -> None:
    calls: list[None] = []

    def time_out(*_: object) -> None:
        calls.append(None)
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "timed out", retriable=True))

    producers[0].abort_transaction = time_out  # type: ignore[attr-defined]
    delivery._begin()
    delivery.close()
    assert (len(calls), len(producers)) == (1, 1)


def test_a_release_that_fails_leaves_no_transaction_open(producers: list[Producer], delivery: ExactlyOnce) -> None:
    calls: list[str] = []

    def fail(*_: object, **__: object) -> None:
        raise KafkaException(KafkaError(KafkaError._STATE, "abortable", txn_requires_abort=True))

    producers[0].list_topics = fail  # type: ignore[attr-defined]
    producers[0].begin_transaction = lambda: calls.append("begin")  # type: ignore[attr-defined]
    producers[0].abort_transaction = lambda *_: calls.append("abort")  # type: ignore[attr-defined]
    delivery.release([])
    delivery.start_commit([], [])
    assert delivery.finish_commit(wait=True)
    assert calls == ["begin", "abort", "begin"]


def test_a_release_aborts_a_record_in_every_partition_with_the_offsets(
    producers: list[Producer], delivery: ExactlyOnce
) -> None:
    topics, calls = KafkaConfig().topics, []
    known = {topic: SimpleNamespace(partitions=[0, 1]) for topic in (topics.features, topics.dead)}

    def noted(name: str) -> Any:
        return lambda *values, **options: calls.append((name, *values, *options.values()))

    producers[0].list_topics = lambda **_: SimpleNamespace(topics=known)  # type: ignore[attr-defined]
    for name in ("produce", "send_offsets_to_transaction", "commit_transaction", "abort_transaction"):
        setattr(producers[0], name, noted(name))
    delivery.release([TopicPartition(topics.raw, 3, 77)])
    produced = [call[1:] for call in calls if call[0] == "produce"]
    assert produced == [(topic, b"", number) for topic in (topics.features, topics.dead) for number in (0, 1)]
    (offsets,) = (call[1] for call in calls if call[0] == "send_offsets_to_transaction")
    assert [(each.topic, each.partition, each.offset) for each in offsets] == [(topics.raw, 3, 0)]
    assert [call[0] for call in calls][-1] == "abort_transaction"
    assert "commit_transaction" not in {call[0] for call in calls}
