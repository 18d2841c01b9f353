"""Kafka as the pipeline uses it: a sink that loses nothing, consumers that take batches, topics made where missing."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from common.config import KafkaConfig
from common.errors import UnavailableError
from common.log import get_logger

POLL_EVERY = 1000  # sends between two looks at delivery reports


def client_settings(config: KafkaConfig, *, quiet: bool = False) -> dict[str, Any]:
    """What every client sets. quiet: a broker that is away is for the caller to say."""
    return {
        "bootstrap.servers": config.bootstrap_servers,
        "client.id": "volcast",
        "log_level": 2,  # librdkafka writes to standard error by itself; what matters reaches error_cb
        "error_cb": (lambda error: None) if quiet else _on_client_error,
        "topic.metadata.refresh.interval.ms": 60_000,
    }


def _on_client_error(error: KafkaError) -> None:
    get_logger().warning("kafka", error=error.str())


def connect(config: KafkaConfig) -> AdminClient:
    """An admin client whose broker has answered.

    Raises UnavailableError where none does within `kafka.timeout_s`.
    """
    admin = AdminClient(client_settings(config, quiet=True))
    try:
        admin.list_topics(timeout=config.timeout_s)
    except KafkaException:
        raise away(config) from None
    return admin


def away(config: KafkaConfig) -> UnavailableError:
    return UnavailableError(
        f"kafka: no broker answers at {config.bootstrap_servers} within {config.timeout_s:g} s; start one with "
        "`volcast broker`, or set kafka.bootstrap_servers"
    )


def ensure_topics(admin: AdminClient, config: KafkaConfig) -> None:
    """Creates the topics that are missing, with `kafka.partitions` partitions each."""
    topics = config.topics
    wanted = {topics.raw, topics.features, topics.predictions, topics.late, topics.dead}
    missing = sorted(wanted - set(admin.list_topics(timeout=config.timeout_s).topics))
    if not missing:
        return
    futures = admin.create_topics([NewTopic(name, config.partitions, 1) for name in missing])
    for name, future in futures.items():
        try:
            future.result(timeout=config.timeout_s)
        except KafkaException as error:
            # Another process of ours may have been quicker.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise UnavailableError(f"kafka: topic {name} cannot be created: {error.args[0].str()}") from None


class Sink:
    """A producer that waits when its queue is full and raises for what was not delivered."""

    def __init__(self, config: KafkaConfig) -> None:
        self._failure: str | None = None
        self._unpolled = 0
        self._producer = Producer(
            {
                **client_settings(config),
                "linger.ms": config.linger_ms,
                # Ticks keep their order whatever is retried. One request in flight alone does not see to that: the
                # first batch for a new topic, refused until its leader stands, was overtaken by the second in 4
                # of 40 runs on Apache Kafka 4.4 (0 of 60 with idempotence).
                "enable.idempotence": True,
                "acks": "all",
                # Larger batches: a message waits for the acknowledgement before it.
                "max.in.flight.requests.per.connection": 1,
                "compression.type": "none",
                "delivery.report.only.error": True,
                "queue.buffering.max.messages": 1_000_000,
                "message.timeout.ms": 30_000,
            }
        )

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
                raise UnavailableError(f"kafka: a message for {topic} is refused: {error.args[0].str()}") from None
        self._unpolled += 1
        if self._unpolled >= POLL_EVERY:
            self.poll()

    def poll(self) -> None:
        self._unpolled = 0
        self._producer.poll(0)
        self._raise_failure()

    def flush(self, timeout_s: float = 35.0) -> None:
        """Waits until everything queued is delivered; raises UnavailableError where something was not."""
        left = self._producer.flush(timeout_s)
        self._raise_failure()
        if left:
            raise UnavailableError(f"kafka: {left} messages were not delivered within {timeout_s:g} s")

    def close(self) -> None:
        """Gives the connection up; what is still queued is dropped, so flush first."""
        self._producer.purge()
        self._producer.close()

    def _on_failure(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        self._failure = f"kafka: a message for {message.topic()} was not delivered: {error.str()}"

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise UnavailableError(self._failure)


def make_consumer(config: KafkaConfig, group_id: str, **settings: object) -> Consumer:
    """A consumer that commits only when told to and starts at the earliest message where it never committed."""
    return Consumer(
        {
            **client_settings(config),
            "group.id": group_id,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "session.timeout.ms": config.session_timeout_ms,
            "heartbeat.interval.ms": min(3000, config.session_timeout_ms // 4),
            # Full queues are looked at again soon; the default of a second would cap replays at 100 k/s.
            "fetch.queue.backoff.ms": 5,
            **settings,
        }
    )


def consume_batch(consumer: Consumer, limit: int, timeout_s: float) -> list[Message]:
    """What is there now, up to `limit`; waits up to `timeout_s` for the first message only.

    `consume(limit, timeout)` alone would wait the whole time for a full batch.
    """
    first = consumer.consume(1, timeout_s)
    if not first:
        return []
    batch = first + consumer.consume(limit - 1, 0) if limit > 1 else first
    failed = [error for message in batch if (error := message.error()) is not None]
    if not failed:
        return batch
    for error in failed:
        if error.fatal() or error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED):
            raise UnavailableError(f"kafka: cannot consume: {error.str()}")
        get_logger().warning("kafka", error=error.str())
    return [message for message in batch if message.error() is None]


def holds_records(config: KafkaConfig, topic: str) -> bool:
    """Whether anything was ever put on a topic. Raises UnavailableError where the broker does not say."""
    consumer = make_consumer(config, "volcast-reader")
    try:
        partitions = [
            TopicPartition(topic, one) for one in consumer.list_topics(topic, config.timeout_s).topics[topic].partitions
        ]
        return any(consumer.get_watermark_offsets(one, config.timeout_s)[1] > 0 for one in partitions)
    except KafkaException as error:
        raise UnavailableError(f"kafka: the end of {topic} cannot be read: {error.args[0].str()}") from None
    finally:
        consumer.close()
