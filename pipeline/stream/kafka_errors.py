"""Errors of Kafka: which are retried, which are final, and what a user can do about each.

librdkafka marks only the errors of transactions as retriable or fatal. For all other errors the table `RETRIABLE`
decides. It follows the column "retriable" of Kafka's protocol guide and librdkafka's own list of local errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

from common.errors import ClientLostError, UnavailableError
from common.log import get_logger

T = TypeVar("T")

FIRST_PAUSE_S = 0.02
MAX_PAUSE_S = 1.0

# The same call may succeed a moment later.
RETRIABLE = frozenset(
    {
        # A topic that was just created, or a leader that moves.
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.INCONSISTENT_TOPIC_ID,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.PREFERRED_LEADER_NOT_AVAILABLE,
        KafkaError.ELIGIBLE_LEADERS_NOT_AVAILABLE,
        KafkaError.LISTENER_NOT_FOUND,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        # A coordinator or controller that starts or moves.
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_CONTROLLER,
        KafkaError._WAIT_COORD,
        # Transactions: the broker still ends the previous one.
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
        # A broker that restarts, is overloaded, or waits for its replicas.
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        KafkaError.FETCH_SESSION_ID_NOT_FOUND,
        KafkaError.INVALID_FETCH_SESSION_EPOCH,
        KafkaError.REBOOTSTRAP_REQUIRED,
        KafkaError.INVALID_MSG,  # a checksum that does not match: damaged on the way
        KafkaError.UNKNOWN,  # the broker met a fault that it has no code for
        # The client's side of the events above.
        KafkaError._TRANSPORT,
        KafkaError._FAIL,
        KafkaError._RESOLVE,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._ISR_INSUFF,
        KafkaError._NODE_UPDATE,
        KafkaError._WAIT_CACHE,
        KafkaError._IN_PROGRESS,
        KafkaError._PREV_IN_PROGRESS,
        KafkaError._INTR,
        KafkaError._RETRY,
        KafkaError._DESTROY_BROKER,
    }
)

# The group has given the partitions to other members. The same commit can never succeed; the new owner of a
# partition reads it again from the last commit.
REBALANCING = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError._ASSIGNMENT_LOST,
    }
)

# What a user can do about a final error.
HINTS: dict[int, str] = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "the login lacks rights on the topic; SECURITY.md lists the rights",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "the login lacks the right Read on the consumer group; SECURITY.md lists "
    "the rights",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "the login lacks rights on the cluster; SECURITY.md lists the rights",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "the login lacks Write and Describe on the transactional id; "
    "SECURITY.md lists the rights",
    KafkaError.INVALID_REPLICATION_FACTOR: "set kafka.replication_factor to at most the number of brokers",
    KafkaError.FENCED_INSTANCE_ID: "another worker has the same worker.instance_id",
    KafkaError._FENCED: "another worker has the same worker.instance_id",
    KafkaError.UNSUPPORTED_VERSION: "the broker is too old, or is no Apache Kafka",
    KafkaError.INVALID_SESSION_TIMEOUT: "set kafka.session_timeout_ms within the limits of the broker",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "`volcast ingest` and `volcast worker` create the topics of section kafka",
}


def is_retriable(error: KafkaError) -> bool:
    """Whether the same call may succeed later.

    False if the client is unusable (fatal), or if the transaction must be aborted first.
    """
    if error.fatal() or error.txn_requires_abort():
        return False
    return error.retriable() or error.code() in RETRIABLE


def is_rebalancing(error: KafkaError) -> bool:
    """Whether a commit came too late, since other members of the group own the partitions now."""
    return error.code() in REBALANCING


def goes_on(error: KafkaError) -> bool:
    """Whether a consumer with this error recovers by itself: it retries, or joins its group again."""
    return is_retriable(error) or is_rebalancing(error) or error.code() == KafkaError._MAX_POLL_EXCEEDED


def kafka_error(error: KafkaException) -> KafkaError:
    """The KafkaError inside a KafkaException."""
    inner = error.args[0]
    assert isinstance(inner, KafkaError)
    return inner


def retrying(call: Callable[[], T], what: str, timeout_s: float, *, pause: Callable[[float], None] = time.sleep) -> T:
    """Repeats a call, with growing pauses, until it succeeds.

    what: the fault in words, such as "the committed offsets cannot be read".
    timeout_s: after this time a retriable error is final too.

    Raises UnavailableError with `what`, the error and a hint.
    """
    deadline_s = time.monotonic() + timeout_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return call()
        except KafkaException as exception:
            error = kafka_error(exception)
            if not is_retriable(error) or time.monotonic() + pause_s > deadline_s:
                raise failure(what, error) from None
            get_logger().info("kafka retry", what=what, error=error.str())
        pause(pause_s)
        pause_s = min(2 * pause_s, MAX_PAUSE_S)


def failure(what: str, error: KafkaError) -> UnavailableError:
    """The line for a user: the fault, Kafka's reason and a hint.

    ClientLostError if the client is unusable: librdkafka reports a fatal error once with its own code, then as _FATAL.
    """
    hint = HINTS.get(error.code())
    reason = error.str().rstrip(". ")
    kind = ClientLostError if error.fatal() or error.code() == KafkaError._FATAL else UnavailableError
    return kind(f"kafka: {what}: {reason}{f'; {hint}' if hint else ''}")
