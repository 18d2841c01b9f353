"""Which errors of Kafka are retried, and the line of those that are final."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from common.errors import UnavailableError
from pipeline.stream.kafka_errors import (
    FIRST_PAUSE_S,
    MAX_PAUSE_S,
    failure,
    goes_on,
    is_rebalancing,
    is_retriable,
    retrying,
)

# Column "retriable" of Kafka's protocol guide, of the errors that consumers, producers and administrators receive.
# Among the retriable ones, those of share groups are left out, since we have none.
PROTOCOL_GUIDE = {
    -1: False, 1: False, 2: True, 3: True, 4: False, 5: True, 6: True, 7: True, 8: False, 9: True, 10: False,
    12: False, 13: True, 14: True, 15: True, 16: True, 17: False, 18: False, 19: True, 20: True, 21: False,
    22: False, 23: False, 24: False, 25: False, 26: False, 27: False, 28: False, 29: False, 30: False, 31: False,
    32: False, 33: False, 34: False, 35: False, 36: False, 37: False, 38: False, 39: False, 40: False, 41: True,
    42: False, 43: False, 44: False, 45: False, 46: False, 47: False, 48: False, 49: False, 50: False, 51: True,
    52: False, 53: False, 54: False, 56: True, 58: False, 59: False, 66: False, 70: True, 71: True, 72: True,
    74: True, 75: True, 76: False, 78: True, 79: False, 80: True, 81: False, 82: False, 83: True, 87: False,
    88: True, 89: True, 90: False, 100: True, 103: True, 110: False, 111: False, 112: False, 113: False, 120: False,
}  # fmt: skip
# Where the table differs on purpose: a broker that restarts, and a fault that a broker has no code for.
RETRIED_TOO = {KafkaError.BROKER_NOT_AVAILABLE, KafkaError.UNKNOWN}


@pytest.mark.parametrize("code", PROTOCOL_GUIDE)
def test_errors_of_brokers_are_retried_as_kafka_says(code: int) -> None:
    assert is_retriable(KafkaError(code)) == (PROTOCOL_GUIDE[code] or code in RETRIED_TOO)


@pytest.mark.parametrize(
    ("name", "retried"),
    [
        ("_TRANSPORT", True),
        ("_ALL_BROKERS_DOWN", True),
        ("_RESOLVE", True),
        ("_FAIL", True),
        ("_TIMED_OUT", True),
        ("_TIMED_OUT_QUEUE", True),
        ("_WAIT_COORD", True),
        ("_WAIT_CACHE", True),
        ("_NODE_UPDATE", True),
        ("_IN_PROGRESS", True),
        ("_PREV_IN_PROGRESS", True),
        ("_ISR_INSUFF", True),
        ("_INTR", True),
        ("_RETRY", True),
        ("_DESTROY_BROKER", True),
        ("_AUTHENTICATION", False),
        ("_SSL", False),
        ("_FATAL", False),
        ("_FENCED", False),
        ("_STATE", False),
        ("_INVALID_ARG", False),
        ("_CONFLICT", False),
        ("_DESTROY", False),
        ("_MSG_TIMED_OUT", False),
        ("_MAX_POLL_EXCEEDED", False),
        ("_UNKNOWN_TOPIC", False),
        ("_UNKNOWN_PARTITION", False),
        ("_ASSIGNMENT_LOST", False),
        ("_GAPLESS_GUARANTEE", False),
    ],
)
def test_errors_of_the_client_are_retried_if_time_can_help(name: str, retried: bool) -> None:
    assert is_retriable(KafkaError(getattr(KafkaError, name))) == retried


def test_the_marks_of_librdkafka_win() -> None:
    final = KafkaError.INVALID_TXN_STATE
    assert is_retriable(KafkaError(final, retriable=True))
    assert not is_retriable(KafkaError(KafkaError.NOT_COORDINATOR, fatal=True))
    assert not is_retriable(KafkaError(KafkaError.NOT_COORDINATOR, txn_requires_abort=True))


@pytest.mark.parametrize(
    "name",
    [
        "ILLEGAL_GENERATION", "REBALANCE_IN_PROGRESS", "UNKNOWN_MEMBER_ID", "FENCED_MEMBER_EPOCH",
        "STALE_MEMBER_EPOCH", "_ASSIGNMENT_LOST",
    ],
)  # fmt: skip
def test_a_commit_after_a_rebalance_is_neither_repeated_nor_the_end(name: str) -> None:
    error = KafkaError(getattr(KafkaError, name))
    assert is_rebalancing(error)
    assert not is_retriable(error)
    assert goes_on(error)


@pytest.mark.parametrize(
    ("name", "goes"),
    [
        ("_MAX_POLL_EXCEEDED", True),
        ("COORDINATOR_LOAD_IN_PROGRESS", True),
        ("TOPIC_AUTHORIZATION_FAILED", False),
        ("GROUP_AUTHORIZATION_FAILED", False),
        ("FENCED_INSTANCE_ID", False),
        ("SASL_AUTHENTICATION_FAILED", False),
        ("UNSUPPORTED_VERSION", False),
    ],
)
def test_a_consumer_goes_on_if_the_client_recovers_by_itself(name: str, goes: bool) -> None:
    assert goes_on(KafkaError(getattr(KafkaError, name))) == goes
    assert not goes_on(KafkaError(getattr(KafkaError, name), fatal=True)) or name == "_MAX_POLL_EXCEEDED"


class Flaky:
    """Fails with the given errors, then returns 7."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.codes:
            raise KafkaException(KafkaError(self.codes.pop(0)))
        return 7


def no_pause(pause_s: float) -> None:
    pytest.fail(f"a pause of {pause_s} s")


def test_a_call_is_repeated_with_growing_pauses() -> None:
    pauses: list[float] = []
    call = Flaky(*[KafkaError.NOT_COORDINATOR] * 8)
    assert retrying(call, "it fails", 60, pause=pauses.append) == 7
    assert call.calls == 9
    assert pauses[0] == FIRST_PAUSE_S
    assert pauses == [min(FIRST_PAUSE_S * 2**number, MAX_PAUSE_S) for number in range(8)]
    assert pauses[-1] == MAX_PAUSE_S


def test_a_final_error_is_not_repeated() -> None:
    call = Flaky(KafkaError.GROUP_AUTHORIZATION_FAILED)
    with pytest.raises(UnavailableError, match=r"^kafka: it fails: .*; the login lacks the right Read on the consumer"):
        retrying(call, "it fails", 60, pause=no_pause)
    assert call.calls == 1


def test_a_retriable_error_is_final_after_the_time() -> None:
    call = Flaky(*[KafkaError.LEADER_NOT_AVAILABLE] * 9)
    with pytest.raises(UnavailableError, match=r"^kafka: it fails: Broker: Leader not available$"):
        retrying(call, "it fails", FIRST_PAUSE_S / 2, pause=no_pause)
    assert call.calls == 1


def test_errors_outside_kafka_are_not_caught() -> None:
    def call() -> Any:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        retrying(call, "it fails", 60)


def test_the_line_of_a_failure_ends_with_what_to_do() -> None:
    error = KafkaError(KafkaError.INVALID_REPLICATION_FACTOR, "Only 1 broker(s) are registered.")
    assert str(failure("topic x cannot be created", error)) == (
        "kafka: topic x cannot be created: Only 1 broker(s) are registered; "
        "set kafka.replication_factor to at most the number of brokers"
    )
