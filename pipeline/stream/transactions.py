"""How the worker delivers: exactly once, in transactions, or at least once.

Both take messages, and then commit them together with the offsets of the ticks that they come from. A transaction is
committed by a thread, since that takes several round trips. Messages that arrive meanwhile wait for the next one.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from common.config import KafkaConfig
from common.errors import ClientLostError, UnavailableError
from common.log import get_logger
from pipeline.stream.kafka import POLL_EVERY, make_producer
from pipeline.stream.kafka_errors import (
    FIRST_PAUSE_S,
    MAX_PAUSE_S,
    failure,
    is_rebalancing,
    is_retriable,
    kafka_error,
    retrying,
)

# The broker aborts the transaction of a dead worker after this time. Until then readers of committed records wait.
TRANSACTION_TIMEOUT_MS = 10_000
# How long a broker may be unavailable before the worker ends.
OUTAGE_S = 120.0
CALL_S = 5.0
# If an abort has no answer for so long, a new producer is started: its start ends the transaction as well. On an
# overloaded machine a broker lost and loaded its transactions again, and the old producer had no answer in two minutes.
ABORT_S = 15.0
# A call of librdkafka for CALL_S has returned by then, unless it never will (librdkafka issues 5456 and 5511).
LOST_CALL_S = CALL_S + 10.0
WATCH_S = 0.5  # how often a waiting worker looks for such a call
# The broker fences a producer for its age only: after a transaction took too long, or when it restarted meanwhile. A
# younger producer was replaced by another worker of the same name.
FENCED_YOUNG_S = TRANSACTION_TIMEOUT_MS / 1e3
FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})
CLOSE_S = 3.0
ANY_PARTITION = -1
# A topic takes such a message never, however often the transaction is done again.
REFUSED = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.POLICY_VIOLATION,
        KafkaError._UNKNOWN_TOPIC,
    }
)
# Directly after a commit the broker refuses the next transaction until all partitions have its end. librdkafka repeats
# the request after this time; its default is 100 ms.
RETRY_BACKOFF_MS = 2
# A small transaction begins when it is committed (see ExactlyOnce). Beyond this the broker gets messages earlier.
MAX_SMALL_MESSAGES = 1000
# About 10 MB. Beyond it the worker waits for the commit in flight.
MAX_WAITING_MESSAGES = 20_000

Messages = tuple[str, bytes, Sequence[bytes], int]  # topic, key, values, partition
SnapshotRecord = tuple[str, bytes, bytes, int]  # topic, key, value, partition


class AbortedError(Exception):
    """Messages and offsets since the last commit are void: state has to be restored from what is committed."""


class Delivery(Protocol):
    """Where the worker's messages go."""

    @property
    def is_full(self) -> bool:
        """Whether the caller should await the commit in flight before it sends more."""
        ...

    def send_all(self, topic: str, key: bytes, values: Sequence[bytes], partition: int = ANY_PARTITION) -> None:
        """Queues messages of one key. Raises AbortedError, or UnavailableError for a message that Kafka refuses."""
        ...

    def poll(self) -> None: ...

    def start_commit(self, offsets: Sequence[TopicPartition], snapshots: Sequence[SnapshotRecord]) -> None:
        """Begins to commit all messages, the offsets, and snapshots as of the offsets. No commit may be in flight.

        Raises the errors of `finish_commit`.
        """
        ...

    def finish_commit(self, *, wait: bool) -> bool:
        """Whether the commit that was started is done. Without `wait` it returns at once.

        Raises AbortedError; UnavailableError after OUTAGE_S, or for a message that Kafka refuses.
        """
        ...

    def abort(self) -> None:
        """Drops messages since the last commit, as far as the guarantee allows. No commit may be in flight.

        Call it after each AbortedError, before anything else. Raises UnavailableError.
        """
        ...

    def release(self, partitions: Sequence[TopicPartition]) -> None:
        """Ends what a lost transaction of this worker left open, if Kafka gives no stable offsets of `partitions`.

        No transaction may be open. Raises UnavailableError.
        """
        ...

    def close(self) -> None: ...


class _Sender:
    """Queues messages and waits while the queue is full."""

    def __init__(self) -> None:
        self._unpolled = 0

    def queue(self, producer: Producer, topic: str, key: bytes, values: Sequence[bytes], partition: int) -> None:
        produce = producer.produce
        for value in values:
            while True:
                try:
                    produce(topic, value, key, partition)
                    break
                except BufferError:
                    producer.poll(0.05)
        self._unpolled += len(values)
        if self._unpolled >= POLL_EVERY:
            self._unpolled = 0
            producer.poll(0)


class ExactlyOnce:
    """One transaction from one commit to the next.

    A small transaction lives in the thread alone: its offsets, its messages, its end. The offsets come first because
    they find out, within RETRY_BACKOFF_MS, when the transaction before is over on all partitions. For messages
    librdkafka would repeat the question after 20 ms. Larger transactions begin earlier, while their messages arrive.

    The producer belongs to the thread while a commit is in flight, and to the caller otherwise.

    transactional_id: stable for this worker. A new producer of the same name ends the transaction of the old one.
    """

    def __init__(self, config: KafkaConfig, consumer: Consumer, transactional_id: str) -> None:
        self._config = config
        self._consumer = consumer
        self._id = transactional_id
        self._sender = _Sender()
        self._waiting: list[Messages] = []
        self._waiting_count = 0
        self._open = False
        self._closing = False
        self._commit: Future[None] | None = None  # in flight, or its result was not taken
        self._call_since_s: float | None = None  # since when a call of librdkafka lasts
        self._refusal: UnavailableError | None = None  # a message that no repetition can deliver
        self._aborted_since_s: float | None = None  # the first abort since the last commit
        self._producer_since_s = 0.0
        self._producer = self._started()

    @property
    def is_full(self) -> bool:
        return self._commit is not None and self._waiting_count >= MAX_WAITING_MESSAGES

    def send_all(self, topic: str, key: bytes, values: Sequence[bytes], partition: int = ANY_PARTITION) -> None:
        self._waiting.append((topic, key, values, partition))
        self._waiting_count += len(values)
        if self._commit is None and self._waiting_count > MAX_SMALL_MESSAGES:
            try:
                self._produce(self._take_waiting())
            except KafkaException as exception:
                raise self._aborted(exception) from None

    def poll(self) -> None:
        if self._commit is None:
            try:
                self._producer.poll(0)
            except KafkaException as exception:
                raise self._aborted(exception) from None

    def start_commit(self, offsets: Sequence[TopicPartition], snapshots: Sequence[SnapshotRecord]) -> None:
        assert self._commit is None
        messages = [*self._take_waiting(), *((topic, key, [value], to) for topic, key, value, to in snapshots)]
        # Of the generation in which the caller owns the partitions: a later one would not be fenced.
        group = self._consumer.consumer_group_metadata()
        self._start(lambda: self._end_transaction(list(offsets), group, messages))

    def finish_commit(self, *, wait: bool) -> bool:
        if self._commit is None:
            return True
        if not self._is_done(self._commit, wait):
            return False
        commit, self._commit = self._commit, None
        commit.result()
        return True

    def abort(self) -> None:
        assert self._commit is None
        self._take_waiting()
        if self._open:
            self._start(self._abort_open)
            self.finish_commit(wait=True)

    def release(self, partitions: Sequence[TopicPartition]) -> None:
        """Aborts a transaction on all partitions that the worker writes to.

        A single broker that was killed can take a transaction for ended whose markers it never wrote (see
        broker/kafka.py). Only the markers of a later transaction of the same producer end it.
        """
        group = self._consumer.consumer_group_metadata()
        offsets = [TopicPartition(each.topic, each.partition, 0) for each in partitions]
        self._start(lambda: self._abort_everywhere(offsets, group))
        try:
            self.finish_commit(wait=True)
        except AbortedError:
            self.abort()

    def _abort_everywhere(self, offsets: list[TopicPartition], group: Any) -> None:
        topics = self._config.topics
        self._begin()
        known = self._producer.list_topics(timeout=CALL_S).topics
        for topic in (topics.features, topics.predictions, topics.late, topics.dead, topics.snapshots):
            for partition in known[topic].partitions if topic in known else ():
                self._producer.produce(topic, b"", partition=partition)
        with suppress(KafkaException, UnavailableError):  # also of refused offsets the abort writes a marker
            self._repeat(lambda: self._producer.send_offsets_to_transaction(offsets, group, CALL_S), CALL_S)
        self._producer.flush(CALL_S)
        self._abort_open()

    def close(self) -> None:
        """Aborts the open transaction, so that readers need not wait for the transaction's timeout."""
        self._closing = True
        with suppress(AbortedError, UnavailableError):  # then the timeout does it, or the next producer of this name
            self.finish_commit(wait=True)
            self.abort()
        if self._call_since_s is None:  # else it would wait for that call, too
            _close(self._producer)

    def _start(self, work: Callable[[], None]) -> None:
        """Does work in a new daemon thread: a call that never returns cannot keep the process alive."""
        commit = self._commit = Future[None]()

        def run() -> None:
            try:
                work()
            except KafkaException as exception:
                commit.set_exception(self._aborted(exception))
            except BaseException as error:
                commit.set_exception(error)
            else:
                commit.set_result(None)

        threading.Thread(target=run, name="volcast-commit", daemon=True).start()

    def _is_done(self, commit: Future[None], waits: bool) -> bool:
        """Raises ClientLostError if a call of librdkafka does not return."""
        while not commit.done():
            began_s = self._call_since_s
            if began_s is not None and time.monotonic() - began_s > LOST_CALL_S:
                raise ClientLostError(f"kafka: the end of a transaction does not return within {LOST_CALL_S:g} s")
            if not waits:
                return False
            wait([commit], WATCH_S)
        return True

    def _take_waiting(self) -> list[Messages]:
        waiting, self._waiting, self._waiting_count = self._waiting, [], 0
        return waiting

    def _end_transaction(self, offsets: list[TopicPartition], group: Any, messages: list[Messages]) -> None:
        self._begin()
        self._repeat(lambda: self._producer.send_offsets_to_transaction(offsets, group, CALL_S))
        self._produce(messages)
        self._repeat(lambda: self._producer.commit_transaction(CALL_S))
        self._open, self._aborted_since_s = False, None

    def _produce(self, messages: list[Messages]) -> None:
        self._begin()
        for topic, key, values, partition in messages:
            try:
                self._sender.queue(self._producer, topic, key, values, partition)
            except KafkaException as exception:
                if kafka_error(exception).code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise
                raise failure(f"a message for {topic} is refused", kafka_error(exception)) from None

    def _aborted(self, exception: KafkaException) -> AbortedError | UnavailableError:
        """What an error of Kafka means: usually that the transaction has to be aborted."""
        error, now_s = kafka_error(exception), time.monotonic()
        with suppress(KafkaException):
            self._producer.poll(0)  # reports of delivery
        if self._refusal is not None:
            return self._refusal
        self._aborted_since_s = self._aborted_since_s or now_s
        if now_s - self._aborted_since_s > OUTAGE_S:
            return failure(f"every transaction was aborted for {OUTAGE_S:g} s", error)
        # A producer after a fatal error is replaced by `abort`, even without a transaction.
        self._open = self._open or error.fatal()
        get_logger().warning("transaction aborted", error=error.str())
        return AbortedError(error.str())

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and error.code() in REFUSED:
            self._refusal = failure(f"a message for {message.topic()} is refused", error)

    def _abort_open(self) -> None:
        try:
            self._repeat(lambda: self._producer.abort_transaction(CALL_S), ABORT_S)
        except KafkaException as exception:
            self._replace(kafka_error(exception))
        except UnavailableError:
            if self._closing:
                raise
            self._renew()  # a new producer of this name ends the transaction too
        self._open = False

    def _begin(self) -> None:
        if not self._open:
            self._open = True  # even if it fails: `abort` then learns from the producer what is wrong with it
            self._producer.begin_transaction()

    def _replace(self, error: KafkaError) -> None:
        """Starts a new producer after a fatal error, such as a transaction that the broker ended for its age."""
        if self._closing:  # a new producer would fence that of the next worker
            raise failure("a transaction cannot be aborted", error)
        age_s = time.monotonic() - self._producer_since_s
        if age_s < FENCED_YOUNG_S and error.code() in FENCED:
            raise UnavailableError(
                f"kafka: the producer {self._id} was replaced within {age_s:.1f} s ({error.str()}); "
                "does another worker have the same worker.instance_id?"
            )
        self._renew()

    def _renew(self) -> None:
        _close(self._producer)
        self._producer = self._started()

    def _started(self) -> Producer:
        producer = make_producer(
            self._config,
            **{
                "transactional.id": self._id,
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "message.timeout.ms": TRANSACTION_TIMEOUT_MS,
                # An idempotent producer keeps the order of several requests in flight.
                "max.in.flight.requests.per.connection": 5,
                "on_delivery": self._on_delivery,
                "retry.backoff.ms": self._config.client.get("retry.backoff.ms", RETRY_BACKOFF_MS),
            },
        )
        retrying(lambda: producer.init_transactions(CALL_S), "transactions cannot start", OUTAGE_S)
        self._producer_since_s = time.monotonic()
        return producer

    def _repeat(self, call: Callable[[], object], limit_s: float = OUTAGE_S) -> None:
        """Repeats a call that continues where the last one stopped. Raises UnavailableError after limit_s."""
        deadline_s, pause_s = time.monotonic() + limit_s, FIRST_PAUSE_S
        while True:
            self._call_since_s = time.monotonic()
            try:
                call()
                return
            except KafkaException as exception:
                error = kafka_error(exception)
                if not is_retriable(error):
                    raise
                if self._closing or time.monotonic() > deadline_s:
                    raise failure("a transaction cannot be ended", error) from None
            finally:
                self._call_since_s = None
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)


class AtLeastOnce:
    """Messages are readable at once. Offsets follow when the messages are delivered; a crash repeats messages.

    Nothing waits for a commit, so none runs in a thread.
    """

    is_full = False

    def __init__(self, config: KafkaConfig, consumer: Consumer) -> None:
        self._consumer = consumer
        self._sender = _Sender()
        self._failure: KafkaError | None = None
        self._producer = make_producer(config, on_delivery=self._on_delivery)

    def send_all(self, topic: str, key: bytes, values: Sequence[bytes], partition: int = ANY_PARTITION) -> None:
        try:
            self._sender.queue(self._producer, topic, key, values, partition)
        except KafkaException as exception:
            raise failure(f"a message for {topic} is refused", kafka_error(exception)) from None

    def poll(self) -> None:
        self._producer.poll(0)

    def start_commit(self, offsets: Sequence[TopicPartition], snapshots: Sequence[SnapshotRecord]) -> None:
        """Snapshots come after the offsets: a snapshot of a later offset than the committed one would be of no use."""
        self._flush()
        self._store(offsets)
        for topic, key, value, partition in snapshots:
            self.send_all(topic, key, [value], partition)

    def finish_commit(self, *, wait: bool) -> bool:
        return True

    def _flush(self) -> None:
        left = self._producer.flush(OUTAGE_S)
        if self._failure is not None:
            raise failure("a message was not delivered", self._failure)
        if left:
            raise UnavailableError(f"kafka: {left} messages were not delivered within {OUTAGE_S:g} s")

    def _store(self, offsets: Sequence[TopicPartition]) -> None:
        def store() -> None:
            self._consumer.commit(offsets=list(offsets), asynchronous=False)

        try:
            try:
                store()
            except KafkaException as exception:
                if not is_retriable(kafka_error(exception)):
                    raise
                retrying(store, "offsets cannot be committed", OUTAGE_S)
        except KafkaException as exception:
            error = kafka_error(exception)
            if is_rebalancing(error):
                raise AbortedError(error.str()) from None
            raise failure("offsets cannot be committed", error) from None

    def abort(self) -> None:
        """Messages that are sent are sent: the guarantee allows repeats."""

    def release(self, partitions: Sequence[TopicPartition]) -> None:
        """There are no transactions."""

    def close(self) -> None:
        _close(self._producer)

    def _on_delivery(self, error: KafkaError | None, message: object) -> None:
        if error is not None:
            self._failure = error


def _close(producer: Producer) -> None:
    """Drops what is queued. A producer that does not end within CLOSE_S is abandoned."""

    def close() -> None:
        # A producer after a fatal error reports that error once more.
        with suppress(KafkaException), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            producer.purge()
            producer.close()

    thread = threading.Thread(target=close, name="volcast-close", daemon=True)
    thread.start()
    thread.join(CLOSE_S)
