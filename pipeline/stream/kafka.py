"""Clients of Kafka: a sink that loses nothing, and consumers that take batches.

Every client of the program is made here, so each takes `kafka.client` and the secrets.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from common.config import KafkaConfig
from common.errors import ConfigError, InputError, UnavailableError
from common.kafka_client import HIDDEN, is_secret
from common.log import get_logger
from pipeline.stream.kafka_errors import failure, goes_on, kafka_error, retrying
from pipeline.stream.kafka_refusals import Refusal, explain, refusal_in

Client = TypeVar("Client", Consumer, Producer, AdminClient)

Sent = tuple[str, bytes, bytes]  # topic, key and value of a message

POLL_EVERY = 1000  # sends between two looks at delivery reports
CONNECT_SLICE_S = 1.0  # how long one attempt of `connect` waits
LOG_EVERY_S = 10.0  # an error of the same kind
KEPT_EVENTS = 50  # of a client that does not connect; librdkafka repeats itself


def connect(config: KafkaConfig) -> AdminClient:
    """An admin client whose broker has answered.

    Raises UnavailableError if no broker answers within `kafka.timeout_s`, or if one refuses TLS or login.
    """
    events: deque[str] = deque(maxlen=KEPT_EVENTS)
    settings = client_settings(config, on_error=lambda error: events.append(error.str()))
    admin = _make(AdminClient, config, {**settings, "logger": _collecting(events), "log_level": 6})
    deadline_s = time.monotonic() + config.timeout_s
    while True:
        left_s = deadline_s - time.monotonic()
        try:
            admin.list_topics(timeout=max(0.01, min(CONNECT_SLICE_S, left_s)))
            return admin
        except KafkaException:
            admin.poll(0)  # hands out errors and log lines
        refusal = refusal_in(events, config)
        if left_s <= CONNECT_SLICE_S or (refusal is not None and refusal.final):
            raise _unavailable(config, refusal) from None


def _collecting(events: deque[str]) -> logging.Logger:
    """librdkafka reports some refusals in its log only."""
    logger = logging.Logger("librdkafka")
    handler = logging.Handler()
    handler.emit = lambda record: events.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    return logger


def _unavailable(config: KafkaConfig, refusal: Refusal | None) -> UnavailableError:
    if refusal is not None:
        return UnavailableError(f"kafka: {config.bootstrap_servers}: {refusal.text}")
    return UnavailableError(
        f"kafka: no broker answers at {config.bootstrap_servers} within {config.timeout_s:g} s; start one with "
        "`volcast broker`, or set kafka.bootstrap_servers"
    )


def client_settings(config: KafkaConfig, *, on_error: Callable[[KafkaError], None] | None = None) -> dict[str, Any]:
    """The settings that all clients share.

    on_error: takes errors of connections; by default they are logged.

    Raises InputError if the file of a secret cannot be read.
    """
    return {
        "client.id": "volcast",
        "log_level": 2,  # librdkafka writes to standard error by itself; errors of connections reach error_cb
        "topic.metadata.refresh.interval.ms": 60_000,
        "reconnect.backoff.max.ms": 1000,  # the default of 10 s would add to each restart of a broker
        **{key: _as_text(value) for key, value in config.client.items()},
        **_read_secrets(config.client_secrets),
        "bootstrap.servers": config.bootstrap_servers,
        "error_cb": on_error or ErrorLog(),
    }


def producer_settings(config: KafkaConfig) -> dict[str, Any]:
    """The settings of every producer."""
    return {
        "compression.type": "none",
        "queue.buffering.max.messages": 1_000_000,
        **client_settings(config),
        "linger.ms": config.linger_ms,
        # The partition of Java's and Flink's producers for the same key.
        "partitioner": "murmur2_random",
        # Retries must not change the order of ticks. A single request in flight is not enough: the first batch for
        # a new topic, refused until the topic has a leader, was overtaken by the second batch in 4 of 40 runs on
        # Apache Kafka 4.4 (0 of 60 with idempotence).
        "enable.idempotence": True,
        "acks": "all",
        # Bulk is faster with a single request, since batches are larger. A message waits for the acknowledgement of
        # the message before it.
        "max.in.flight.requests.per.connection": 1,
        "delivery.report.only.error": True,
        "message.timeout.ms": 30_000,
    }


def make_producer(config: KafkaConfig, **settings: object) -> Producer:
    """settings: in addition, such as `**{"transactional.id": …}`."""
    return _make(Producer, config, {**producer_settings(config), **settings})


def make_consumer(config: KafkaConfig, group_id: str, **settings: object) -> Consumer:
    """A consumer that commits only explicitly and starts at the earliest message if it never committed."""
    return _make(
        Consumer,
        config,
        {
            # How soon a full queue is filled again; the default of a second would cap replays at 100 k/s.
            "fetch.queue.backoff.ms": 5,
            **client_settings(config),
            "group.id": group_id,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "session.timeout.ms": config.session_timeout_ms,
            "heartbeat.interval.ms": min(3000, config.session_timeout_ms // 4),
            **settings,
        },
    )


def _make(kind: type[Client], config: KafkaConfig, settings: Mapping[str, Any]) -> Client:
    try:
        return kind(dict(settings))
    except KafkaException as exception:
        text = kafka_error(exception).str()
    for key, value in settings.items():
        if is_secret(key):
            text = text.replace(str(value), repr(HIDDEN))
    named = [key for key in (*config.client, *config.client_secrets) if key in text]
    key = f"kafka.client.{named[0]}" if named else "kafka.client"
    # Only the text is shown: a misspelled key may hold a secret.
    raise ConfigError(key, HIDDEN, f"properties of librdkafka ({' '.join(text.split())})")


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read_secrets(files: Mapping[str, str]) -> dict[str, str]:
    return {key: _read_secret(key, file) for key, file in files.items()}


def _read_secret(key: str, file: str) -> str:
    try:
        value = Path(file).read_text().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(f"kafka.client_secrets.{key}: {file}: cannot be read: {reason}") from None
    if not value:
        raise InputError(f"kafka.client_secrets.{key}: {file}: is empty")
    return value


class ErrorLog:
    """Logs errors of connections, each kind at most once in LOG_EVERY_S: librdkafka repeats them 20 times a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_s: dict[int, float] = {}  # by error code
        self._suppressed: Counter[int] = Counter()

    def __call__(self, error: KafkaError) -> None:
        code, now_s = error.code(), self._clock()
        if now_s - self._logged_s.get(code, float("-inf")) < LOG_EVERY_S:
            self._suppressed[code] += 1
            return
        self._logged_s[code] = now_s
        get_logger().warning("kafka", error=explain(error.str()), suppressed=self._suppressed.pop(code, 0))


class Sink:
    """A producer that waits while its queue is full, and raises for messages that were not delivered.

    settings: of the producer, above those of every producer.
    """

    def __init__(self, config: KafkaConfig, settings: Mapping[str, object] | None = None) -> None:
        self._failure: UnavailableError | None = None
        self._returned: dict[bool, list[Sent]] | None = None  # by whether they were in flight
        self._unpolled = 0
        self._producer = make_producer(config, **(settings or {}))

    @property
    def queued(self) -> int:
        """Messages that are not delivered yet."""
        return len(self._producer)

    def send(self, topic: str, key: bytes, value: bytes) -> None:
        """Queues one message; blocks while the queue is full. Raises UnavailableError once a delivery has failed."""
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=self._on_failure)
                break
            except BufferError:
                self._producer.poll(0.05)
                self._raise_failure()
            except KafkaException as error:
                raise failure(f"a message for {topic} is refused", kafka_error(error)) from None
        self._unpolled += 1
        if self._unpolled >= POLL_EVERY:
            self.poll()

    def poll(self) -> None:
        self._unpolled = 0
        self._producer.poll(0)
        self._raise_failure()

    def flush(self, timeout_s: float = 35.0) -> None:
        """Waits until all queued messages are delivered. Raises UnavailableError if a message was not."""
        left = self._producer.flush(timeout_s)
        self._raise_failure()
        if left:
            raise UnavailableError(f"kafka: {left} messages were not delivered within {timeout_s:g} s")

    def take_back(self) -> list[Sent]:
        """Removes the messages that are not delivered: topic, key, value, in their order. The sink is then unusable.

        A message that the broker had taken without a timely answer is among them too.
        """
        returned: dict[bool, list[Sent]] = {True: [], False: []}
        self._returned = returned
        self._producer.purge()
        self._producer.flush(1.0)  # runs the delivery reports
        self._returned = None
        # librdkafka reports the queue first, though it sent the messages in flight before.
        return returned[True] + returned[False]

    def close(self) -> None:
        """Closes the connection and drops all messages that are still queued, so flush first."""
        self._producer.purge()
        self._producer.close()

    def _on_failure(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        if self._returned is not None:
            in_flight = error.code() == KafkaError._PURGE_INFLIGHT
            self._returned[in_flight].append((message.topic() or "", message.key() or b"", message.value() or b""))
            return
        # librdkafka has retried for message.timeout.ms: each error here is final.
        self._failure = failure(f"a message for {message.topic()} was not delivered", error)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def consume_batch(
    consumer: Consumer,
    limit: int,
    timeout_s: float,
    *,
    on_lost_records: Callable[[int], None] | None = None,
    on_end: Callable[[Message], object] | None = None,
    assignment: Callable[[int | None], object] | None = None,
) -> list[Message]:
    """The messages that are there now, up to `limit`; waits up to `timeout_s` for the first message only.

    `consume(limit, timeout)` alone would wait the whole time for a full batch.

    on_lost_records: with `auto.offset.reset` "error", called with the partition whose next records Kafka has deleted.
    on_end: with `enable.partition.eof`, called with topic, partition and offset of an end that is reached.
    assignment: for a member of a group: the state behind a partition, another object after each assignment of it. The
    group may take a partition and give it back between our two calls. A message from before would then come ahead of
    the earlier offsets from which the partition is read again.

    Raises UnavailableError for an error that the client cannot recover from.
    """
    first = consumer.consume(1, timeout_s)
    if not first:
        return []
    batch = first
    if limit > 1:
        before = assignment(first[0].partition()) if assignment else None
        rest = consumer.consume(limit - 1, 0)
        is_stale = assignment is not None and assignment(first[0].partition()) is not before
        batch = rest if is_stale else first + rest
    failed = [message for message in batch if message.error() is not None]
    if not failed:
        return batch
    for message in failed:
        code = message.error().code()  # type: ignore[union-attr]
        if on_lost_records is not None and code == KafkaError._AUTO_OFFSET_RESET:
            on_lost_records(message.partition() or 0)
        elif on_end is not None and code == KafkaError._PARTITION_EOF:
            on_end(message)
        else:
            _on_consumer_error(consumer, message)
    return [message for message in batch if message.error() is None]


UNKNOWN_TOPIC_S = 10.0  # how long a topic may be unknown: the brokers may not yet know that it was created


def _on_consumer_error(consumer: Consumer, message: Message) -> None:
    """The client retries by itself. Raises UnavailableError if that cannot help."""
    error = message.error()
    assert error is not None
    topic = message.topic()
    if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART and topic:
        retrying(lambda: _require_topic(consumer, topic), f"cannot consume {topic}", UNKNOWN_TOPIC_S)
    elif not goes_on(error):
        raise failure("cannot consume", error)
    get_logger().warning("kafka", error=error.str())


def _require_topic(consumer: Consumer, topic: str) -> None:
    if topic not in consumer.list_topics(timeout=UNKNOWN_TOPIC_S).topics:
        raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))


def partitions_of(consumer: Consumer, topic: str, timeout_s: float) -> list[int]:
    """The numbers of a topic's partitions.

    Raises UnavailableError if there is no such topic, or if no broker reports it within timeout_s.
    """
    known = retrying(lambda: consumer.list_topics(timeout=timeout_s).topics, f"{topic} cannot be read", timeout_s)
    if topic not in known:
        raise UnavailableError(
            f"kafka: there is no topic {topic} that this login may see; `volcast ingest` and `volcast worker` make it"
        )
    return sorted(known[topic].partitions)


def watermarks(consumer: Consumer, partition: TopicPartition, timeout_s: float) -> tuple[int, int]:
    """The first offset of a partition and the offset after its last record, from the broker.

    Raises UnavailableError if the broker does not report them within timeout_s.
    """
    return retrying(
        lambda: consumer.get_watermark_offsets(partition, timeout_s, cached=False),
        f"the ends of {partition.topic} cannot be read",
        timeout_s,
    )


def committed(consumer: Consumer, partitions: list[TopicPartition], timeout_s: float) -> list[TopicPartition]:
    """The group's committed offsets; a negative offset if it never committed.

    Raises UnavailableError if the coordinator does not report them within timeout_s.
    """
    return retrying(
        lambda: consumer.committed(partitions, timeout=timeout_s), "the committed offsets cannot be read", timeout_s
    )


def offsets_at(consumer: Consumer, times_ms: list[TopicPartition], timeout_s: float) -> list[TopicPartition]:
    """The first offset of each partition at or after a time, ms since the epoch, given as its offset.

    A negative offset: the partition has no record as new as that. Raises UnavailableError as `watermarks`.
    """
    return retrying(
        lambda: consumer.offsets_for_times(times_ms, timeout_s), "the offsets of a time cannot be read", timeout_s
    )


def holds_records(config: KafkaConfig, topic: str) -> bool:
    """Whether a topic ever had a record. Raises UnavailableError if the broker does not answer."""
    consumer = make_consumer(config, "volcast-reader")
    try:
        return any(
            watermarks(consumer, TopicPartition(topic, number), config.timeout_s)[1] > 0
            for number in partitions_of(consumer, topic, config.timeout_s)
        )
    finally:
        consumer.close()
