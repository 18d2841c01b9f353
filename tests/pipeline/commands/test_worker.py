"""A worker whose Kafka clients become unusable starts again, unless that goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError

from common.errors import ClientLostError, UnavailableError
from pipeline.commands.worker import MAX_LOST, YOUNG_S, with_new_clients
from pipeline.stream.kafka_errors import failure

FENCED = KafkaError(KafkaError.FENCED_INSTANCE_ID, "fenced", True)


class Work:
    """Loses its clients the given number of times."""

    def __init__(self, losses: int) -> None:
        self.calls = 0
        self._losses = losses

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self._losses:
            raise failure("cannot consume", FENCED)
        return self.calls


def clock(step_s: float) -> Iterator[float]:
    now_s = 0.0
    while True:
        yield now_s
        now_s += step_s


@pytest.mark.parametrize(
    "error", [FENCED, KafkaError(KafkaError._FATAL, "Fatal error"), KafkaError(KafkaError._FENCED, "fenced", True)]
)
def test_a_fatal_error_means_that_the_client_is_lost(error: KafkaError) -> None:
    assert isinstance(failure("cannot consume", error), ClientLostError)


def test_another_final_error_does_not_mean_that_the_client_is_lost() -> None:
    error = failure("cannot consume", KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    assert not isinstance(error, ClientLostError)


def test_a_worker_that_lost_its_clients_starts_again() -> None:
    assert with_new_clients(Work(MAX_LOST - 1), clock(0.1).__next__) == MAX_LOST


def test_a_worker_that_loses_its_clients_again_and_again_ends() -> None:
    work = Work(MAX_LOST)
    with pytest.raises(UnavailableError, match=r"same worker\.instance_id") as raised:
        with_new_clients(work, clock(YOUNG_S - 0.1).__next__)
    assert not isinstance(raised.value, ClientLostError)
    assert work.calls == MAX_LOST


def test_a_broker_that_fails_again_and_again_does_not_end_the_worker() -> None:
    assert with_new_clients(Work(10), clock(YOUNG_S).__next__) == 11


def test_other_errors_are_not_repeated() -> None:
    calls = []

    def work() -> None:
        calls.append(1)
        raise UnavailableError("kafka: no broker answers")

    with pytest.raises(UnavailableError, match="no broker"):
        with_new_clients(work)
    assert calls == [1]
