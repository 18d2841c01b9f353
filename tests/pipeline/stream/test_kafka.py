"""Clients of Kafka: settings, errors, and the sink on a real broker."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from common.config import KafkaConfig
from common.errors import ConfigError, InputError, UnavailableError
from pipeline.stream.kafka import (
    LOG_EVERY_S,
    ErrorLog,
    Sink,
    client_settings,
    committed,
    connect,
    consume_batch,
    make_consumer,
    producer_settings,
    watermarks,
)
from pipeline.stream.kafka_topics import ensure_topics
from tests.processes import fresh_topics, read_all


@pytest.mark.kafka
def test_messages_keep_their_order_on_a_topic_that_was_just_made(kafka: KafkaConfig) -> None:
    values = [b"%08d" % number + bytes(240) for number in range(6000)]  # more than one request holds
    for _ in range(8):  # what overtakes does so in one run of ten
        fresh = KafkaConfig(
            bootstrap_servers=kafka.bootstrap_servers,
            topics=fresh_topics(),
            session_timeout_ms=kafka.session_timeout_ms,
        )
        ensure_topics(connect(fresh), fresh)
        sink = Sink(fresh)
        for value in values:
            sink.send(fresh.topics.raw, b"BTC-USD", value)
        sink.flush()
        sink.close()
        assert [message.value() for message in read_all(fresh, fresh.topics.raw, len(values))] == values


# Placements of Kafka's own Java client: Utils.toPositive(Utils.murmur2(key)) % 12, printed with kafka-clients 4.4.0.
PLACEMENTS = {
    "BTC-USD": 9, "ETH-USD": 8, "SOL-USD": 5, "BTC-PERP-INTX": 9, "BIT-28JUN24-CDE": 1, "coinbase:BTC-USD": 5,
    "binance:BTCUSDT": 5, "foobar": 6, "21": 0, "abc": 3, "a": 4, "ab": 2, "abcd": 8, "abcde": 1, "é": 3,
}  # fmt: skip


@pytest.mark.kafka
def test_keys_are_placed_as_java_and_flink_place_them(kafka: KafkaConfig) -> None:
    config = msgspec.structs.replace(kafka, topics=fresh_topics(), partitions=12)
    ensure_topics(connect(config), config)
    sink = Sink(config)
    for key in PLACEMENTS:
        sink.send(config.topics.raw, key.encode(), b"value")
    sink.flush()
    sink.close()
    messages = read_all(config, config.topics.raw, len(PLACEMENTS))
    assert {(message.key() or b"").decode(): message.partition() for message in messages} == PLACEMENTS


class FakeConsumer:
    """Gives one batch, whose messages may be errors, and knows some topics."""

    def __init__(self, batch: list[Any], topics: tuple[str, ...] = ()) -> None:
        self.batch = batch
        self.topics = topics

    def consume(self, limit: int, timeout_s: float) -> list[Any]:
        taken, self.batch = self.batch[:limit], self.batch[limit:]
        return taken

    def list_topics(self, timeout: float) -> Any:
        return SimpleNamespace(topics=self.topics)


def message(error: int | None = None, topic: str | None = "ticks.raw") -> Any:
    fault = None if error is None else KafkaError(error)
    return SimpleNamespace(error=lambda: fault, topic=lambda: topic)


def consume(*batch: Any, topics: tuple[str, ...] = ()) -> list[Message]:
    return consume_batch(FakeConsumer(list(batch), topics), 10, 0)  # type: ignore[arg-type]


class TestErrorsOfAConsumer:
    @pytest.mark.parametrize(
        "code",
        [
            KafkaError.NOT_COORDINATOR,
            KafkaError.NOT_LEADER_FOR_PARTITION,
            KafkaError._TRANSPORT,
            KafkaError._MAX_POLL_EXCEEDED,
            KafkaError.REBALANCE_IN_PROGRESS,
        ],
    )
    def test_errors_that_pass_leave_the_messages(self, code: int) -> None:
        good = message()
        assert consume(message(code), good, message(code)) == [good]

    @pytest.mark.parametrize("code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.FENCED_INSTANCE_ID])
    def test_a_final_error_ends_the_consumer(self, code: int) -> None:
        with pytest.raises(UnavailableError, match=r"^kafka: cannot consume: Broker: "):
            consume(message(), message(code))

    def test_a_new_topic_that_the_broker_does_not_know_yet_is_waited_for(self) -> None:
        unknown = message(KafkaError.UNKNOWN_TOPIC_OR_PART)
        assert consume(unknown, topics=("ticks.raw",)) == []

    def test_a_topic_that_does_not_exist_ends_the_consumer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pipeline.stream.kafka.UNKNOWN_TOPIC_S", 0.05)
        with pytest.raises(UnavailableError, match=r"^kafka: cannot consume ticks\.raw: .*; `volcast ingest` and"):
            consume(message(KafkaError.UNKNOWN_TOPIC_OR_PART), topics=("other",))


class FakeGroup:
    """Watermarks and commits that fail with the given errors first."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)

    def get_watermark_offsets(self, partition: TopicPartition, timeout_s: float, cached: bool) -> tuple[int, int]:
        assert not cached
        self._fail()
        return 3, 9

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self._fail()
        return partitions

    def _fail(self) -> None:
        if self.codes:
            raise KafkaException(KafkaError(self.codes.pop(0)))


def test_the_ends_of_a_new_topic_are_asked_for_until_it_has_a_leader() -> None:
    group: Any = FakeGroup(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
    assert watermarks(group, TopicPartition("ticks.raw", 0), 5) == (3, 9)


def test_the_commits_of_a_group_are_asked_for_until_it_has_a_coordinator() -> None:
    group: Any = FakeGroup(KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
    partitions = [TopicPartition("ticks.raw", 0, 5)]
    assert committed(group, partitions, 5) == partitions
    denied: Any = FakeGroup(KafkaError.GROUP_AUTHORIZATION_FAILED)
    with pytest.raises(UnavailableError, match=r"^kafka: the committed offsets cannot be read: .*right Read"):
        committed(denied, partitions, 5)


class TestSettings:
    def test_the_configuration_reaches_every_client_and_changes_nothing_that_volcast_owns(self, tmp_path: Path) -> None:
        secret = tmp_path / "password"
        secret.write_text("a b\n")
        config = KafkaConfig(
            client={"client.id": "mine", "enable.ssl.certificate.verification": False, "acks": "0"},
            client_secrets={"sasl.password": str(secret)},
        )
        settings = producer_settings(config)
        assert settings["client.id"] == "mine"
        assert settings["enable.ssl.certificate.verification"] == "false"
        assert settings["sasl.password"] == "a b"
        assert settings["acks"] == "all"
        assert settings["reconnect.backoff.max.ms"] == 1000
        assert producer_settings(msgspec.structs.replace(config, client={"compression.type": "zstd"}))[
            "compression.type"
        ] == "zstd"  # fmt: skip

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (None, "cannot be read: No such file or directory"),
            (b"\n", "is empty"),
            (b"\xff", "cannot be read: not tex"),
        ],
    )
    def test_a_secret_that_cannot_be_read_is_named(self, content: bytes | None, reason: str, tmp_path: Path) -> None:
        file = tmp_path / "password"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InputError) as caught:
            client_settings(KafkaConfig(client_secrets={"sasl.password": str(file)}))
        assert str(caught.value).startswith(f"kafka.client_secrets.sasl.password: {file}: {reason}")

    def test_an_error_of_librdkafka_does_not_show_a_secret(self, tmp_path: Path) -> None:
        secret = tmp_path / "key"
        secret.write_text("hunter2")
        config = KafkaConfig(client={"security.protocol": "SSL"}, client_secrets={"ssl.key.pem": str(secret)})
        with pytest.raises(ConfigError) as caught:
            make_consumer(config, "group")
        assert str(caught.value).startswith("config: kafka.client")
        assert "hunter2" not in f"{caught.value} {vars(caught.value)}"


def test_clients_of_kafka_are_made_in_one_place() -> None:
    """Another place would forget kafka.client."""
    root = Path(__file__).parents[3]
    made = re.compile(r"\b(Consumer|Producer|AdminClient)\(\s*[{*\w]")
    folders = ("benchmarks", "cli", "clients", "common", "pipeline", "server", "training")
    files = [file for folder in folders for file in (root / folder).rglob("*.py")]
    found = {str(file.relative_to(root)) for file in files if made.search(file.read_text())}
    assert found == {"pipeline/broker/kafka.py"}  # it waits for its own plaintext listener


class PurgedProducer:
    """Reports purged messages as librdkafka does if a broker hangs: the queue, then those in flight (measured)."""

    def __init__(self, in_flight: int) -> None:
        self.in_flight = in_flight
        self.queue: list[tuple[Any, Any]] = []

    def produce(self, topic: str, value: bytes, key: bytes, on_delivery: Any) -> None:
        message = SimpleNamespace(topic=lambda: topic, key=lambda: key, value=lambda: value)
        self.queue.append((on_delivery, message))

    def purge(self) -> None: ...

    def flush(self, timeout_s: float) -> int:
        for code, reports in (
            (KafkaError._PURGE_QUEUE, self.queue[self.in_flight :]),
            (KafkaError._PURGE_INFLIGHT, self.queue[: self.in_flight]),
        ):
            for report, message in reports:
                report(KafkaError(code), message)
        return 0


@pytest.mark.parametrize("in_flight", [0, 3, 10])
def test_messages_come_back_in_their_order_from_a_broker_that_hangs(
    in_flight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stream.kafka.make_producer", lambda config: PurgedProducer(in_flight))
    sink = Sink(KafkaConfig())
    for number in range(10):
        sink.send("ticks.raw", b"BTC-USD", b"%d" % number)
    assert [int(value) for _, _, value in sink.take_back()] == list(range(10))


def test_an_error_that_librdkafka_repeats_is_logged_again_only_after_some_time() -> None:
    now_s = 0.0
    log = ErrorLog(lambda: now_s)
    with structlog.testing.capture_logs() as events:
        for step in range(100):
            now_s = step * LOG_EVERY_S / 50
            log(KafkaError(KafkaError._TRANSPORT, f"attempt {step}"))
        log(KafkaError(KafkaError._ALL_BROKERS_DOWN, "all"))
    assert [(event["error"], event["suppressed"]) for event in events] == [
        ("attempt 0", 0),
        ("attempt 50", 49),
        ("all", 0),
    ]
