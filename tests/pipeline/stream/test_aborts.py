"""A transaction whose abort gets no answer: a new producer ends it, since the broker may have lost its state."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from common.config import KafkaConfig
from common.errors import UnavailableError
from pipeline.stream import transactions
from pipeline.stream.transactions import ABORT_S, CALL_S, OUTAGE_S, ExactlyOnce


class Producer:
    """Every method succeeds but those that are replaced."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(transactions, "time", clock)
    return clock


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch) -> list[Producer]:
    """Those that the delivery makes, the newest last."""
    made: list[Producer] = []

    def make(*_: object, **__: object) -> Producer:
        made.append(Producer())
        return made[-1]

    monkeypatch.setattr(transactions, "make_producer", make)
    return made


@pytest.fixture
def delivery(clock: Clock, producers: list[Producer]) -> ExactlyOnce:
    return ExactlyOnce(KafkaConfig(), SimpleNamespace(consumer_group_metadata=lambda: None), "id")  # type: ignore[arg-type]


def never_answered(clock: Clock, calls: list[float]) -> Any:
    def call(*_: object) -> None:
        calls.append(clock.now_s)
        clock.now_s += CALL_S
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "Timed out waiting for operation to finish"))

    return call


def test_an_abort_without_an_answer_is_left_to_a_new_producer(
    clock: Clock, producers: list[Producer], delivery: ExactlyOnce
) -> None:
    calls: list[float] = []
    producers[0].abort_transaction = never_answered(clock, calls)  # type: ignore[attr-defined]
    delivery._begin()
    delivery.abort()
    assert len(producers) == 2
    assert ABORT_S <= calls[-1] - calls[0] + CALL_S <= ABORT_S + 2 * CALL_S < OUTAGE_S
    delivery.start_commit([], [])
    assert delivery.finish_commit(wait=True)


def test_a_commit_without_an_answer_is_repeated_for_the_whole_outage(
    clock: Clock, producers: list[Producer], delivery: ExactlyOnce
) -> None:
    calls: list[float] = []
    producers[0].commit_transaction = never_answered(clock, calls)  # type: ignore[attr-defined]
    delivery.start_commit([], [])
    with pytest.raises(UnavailableError, match="a transaction cannot be ended"):
        delivery.finish_commit(wait=True)
    assert calls[-1] - calls[0] >= OUTAGE_S - CALL_S
    assert len(producers) == 1


def test_a_delivery_that_closes_does_not_wait_for_an_answer(
    clock: Clock, producers: list[Producer], delivery: ExactlyOnce
) -> None:
    calls: list[float] = []
    producers[0].abort_transaction = never_answered(clock, calls)  # type: ignore[attr-defined]
    delivery._begin()
    delivery.close()
    assert (len(calls), len(producers)) == (1, 1)
