"""Every client of the program on a real Kafka with TLS, logins, client certificates and rights."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)

from common.config import KafkaConfig
from common.errors import ConfigError, UnavailableError
from pipeline.stream.kafka import Sink, committed, connect, consume_batch, holds_records, make_consumer, make_producer
from pipeline.stream.kafka_topics import ensure_topics
from tests.pipeline.stream.secured_kafka import PASSWORD, STRANGER, SecuredKafka
from tests.processes import as_environ, read_all, volcast
from tests.server.security.authority import Authority

pytestmark = [pytest.mark.kafka, pytest.mark.process]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with SecuredKafka(tmp_path_factory.mktemp("secured")) as broker:
        yield broker


def refused(config: KafkaConfig) -> str:
    """The line of a connection that is refused."""
    with pytest.raises(UnavailableError) as caught:
        connect(msgspec.structs.replace(config, timeout_s=3))
    line = str(caught.value)
    assert line.startswith(f"kafka: {config.bootstrap_servers}: ")
    assert PASSWORD not in line
    assert "\n" not in line
    return line.removeprefix(f"kafka: {config.bootstrap_servers}: ")


@pytest.mark.parametrize("kind", ["sasl", "mtls"])
def test_each_kind_of_client_works(kind: str, secured: SecuredKafka) -> None:
    config = getattr(secured, kind)()
    ensure_topics(connect(config), config)
    assert not holds_records(config, config.topics.raw)
    sink = Sink(config)
    for number in range(100):
        sink.send(config.topics.raw, b"BTC-USD", b"%d" % number)
    sink.flush()
    sink.close()
    assert holds_records(config, config.topics.raw)
    assert [int(message.value() or b"") for message in read_all(config, config.topics.raw, 100)] == list(range(100))
    consumer = make_consumer(config, f"group-{time.time_ns()}")
    consumer.subscribe([config.topics.raw])
    read = 0
    deadline_s = time.monotonic() + 20
    while read < 100 and time.monotonic() < deadline_s:
        read += len(consume_batch(consumer, 100, 0.2))
    assert read == 100
    topic = TopicPartition(config.topics.raw, 0, 100)
    consumer.commit(offsets=[topic], asynchronous=False)
    assert committed(consumer, [topic], 10)[0].offset == 100
    consumer.close()


def transact(config: KafkaConfig) -> None:
    """A record on the topic of features, in a transaction."""
    producer = make_producer(config, **{"transactional.id": f"volcast-{time.time_ns()}"})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(config.topics.features, b"value", b"key")
    producer.commit_transaction(20)
    producer.close()


def test_a_transaction_works_with_a_login(secured: SecuredKafka) -> None:
    config = secured.sasl()
    ensure_topics(connect(config), config)
    transact(config)
    assert [message.value() for message in read_all(config, config.topics.features, 1)] == [b"value"]


def test_a_wrong_password(secured: SecuredKafka) -> None:
    config = secured.sasl()
    wrong = secured.write("wrong-password", b"wrong-horse\n")
    line = refused(msgspec.structs.replace(config, client_secrets={"sasl.password": str(wrong)}))
    assert line.startswith("the broker refuses the login: check sasl.mechanism and sasl.username")
    assert "wrong-horse" not in line


def test_a_wrong_password_is_reported_before_the_time_for_starting_brokers_is_over(secured: SecuredKafka) -> None:
    began_s = time.monotonic()
    with pytest.raises(UnavailableError, match="refuses the login"):
        connect(msgspec.structs.replace(secured.sasl(sasl_username="nobody"), timeout_s=30))
    assert time.monotonic() - began_s < 10


def test_a_mechanism_that_the_broker_lacks(secured: SecuredKafka) -> None:
    line = refused(secured.sasl(sasl_mechanism="PLAIN"))
    assert line == ("the broker does not support this sasl.mechanism; set it in kafka.client to one of: SCRAM-SHA-512")


LOGIN_DEMANDED = "the broker closes the connection: it demands a login; set security.protocol in kafka.client to "
TLS_DEMANDED = "the broker closes the connection: it probably demands TLS; set security.protocol in kafka.client to "
NO_TLS = "the broker does not speak TLS at this address: "


MISMATCHES = {
    ("SASL_PLAIN", ""): f"{LOGIN_DEMANDED}SASL_PLAINTEXT or SASL_SSL, and sasl.mechanism, ",
    ("SASL", "SSL"): f"{LOGIN_DEMANDED}SASL_SSL, and sasl.mechanism, ",
    ("SASL", ""): TLS_DEMANDED,
    ("MTLS", ""): TLS_DEMANDED,
    ("TLS", ""): TLS_DEMANDED,
    ("SASL", "SASL_PLAINTEXT"): TLS_DEMANDED,
    ("PLAINTEXT", "SSL"): NO_TLS,
    ("PLAINTEXT", "SASL_SSL"): NO_TLS,
    ("SASL_PLAIN", "SASL_SSL"): NO_TLS,
    ("PLAINTEXT", "SASL_PLAINTEXT"): "the broker expects no login at this address: ",
    ("TLS", "SASL_SSL"): "the broker expects no login at this address: ",
}


@pytest.fixture(scope="module")
def lines_of_mismatches(secured: SecuredKafka) -> dict[tuple[str, str], str]:
    """All are tried at once, since most wait for the whole of `kafka.timeout_s`."""

    def line(listener: str, protocol: str) -> str:
        config = secured.sasl(listener, security_protocol=protocol)
        if "SASL" not in protocol:
            config = msgspec.structs.replace(config, client_secrets={})
        return refused(config)

    with ThreadPoolExecutor(len(MISMATCHES)) as pool:
        return dict(zip(MISMATCHES, pool.map(line, *zip(*MISMATCHES, strict=True)), strict=True))


@pytest.mark.parametrize(("listener", "protocol"), MISMATCHES)
def test_a_protocol_that_the_listener_does_not_speak(
    listener: str, protocol: str, lines_of_mismatches: dict[tuple[str, str], str]
) -> None:
    assert lines_of_mismatches[listener, protocol].startswith(MISMATCHES[listener, protocol])


def test_an_authority_that_the_client_does_not_know(secured: SecuredKafka) -> None:
    other = secured.write("other.pem", Authority("another authority").pem)
    for config in (secured.sasl(ssl_ca_location=str(other)), secured.sasl(ssl_ca_location="")):
        assert refused(config).startswith("the broker's certificate is not trusted (unable to get local issuer ")


def test_a_certificate_for_another_name(secured: SecuredKafka) -> None:
    line = refused(secured.mtls("ELSEWHERE"))
    assert line.startswith("the broker's certificate is not trusted (IP address mismatch, ")
    assert line.endswith("and kafka.bootstrap_servers to a name in it")


def test_a_certificate_that_is_expired(secured: SecuredKafka) -> None:
    assert refused(secured.mtls("EXPIRED")).startswith(
        "the broker's certificate is not trusted (certificate has expired): "
    )


def test_a_client_certificate_is_demanded(secured: SecuredKafka, tmp_path: Path) -> None:
    demanded = "the broker demands a client certificate that it trusts: set ssl.certificate.location and "
    assert refused(secured.mtls(ssl_certificate_location="", ssl_key_location="")).startswith(demanded)
    for name, content in zip(("foreign.pem", "foreign.key"), Authority("foreign").signed("client"), strict=True):
        (tmp_path / name).write_bytes(content)
    foreign = secured.mtls(
        ssl_certificate_location=str(tmp_path / "foreign.pem"), ssl_key_location=str(tmp_path / "foreign.key")
    )
    assert refused(foreign).startswith(demanded)


def test_no_listener_at_all(secured: SecuredKafka) -> None:
    with pytest.raises(UnavailableError, match=r"no broker answers at 127\.0\.0\.1:1 within 0\.3 s; start one with"):
        connect(KafkaConfig(bootstrap_servers="127.0.0.1:1", timeout_s=0.3))
    unknown = secured.sasl()
    unknown = msgspec.structs.replace(unknown, bootstrap_servers="no-such-host.invalid:9092", timeout_s=1)
    with pytest.raises(UnavailableError, match=r"the host name cannot be resolved; set kafka\.bootstrap_servers"):
        connect(unknown)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("socket.timeout.ms", "1", "outside allowed range"),
        ("security.protocol", "TLS", "Invalid value"),
        ("sasl.pasword", "hunter2", "No such configuration property"),
        ("ssl.ca.location", "/nowhere/ca.pem", "ssl.ca.location failed"),
    ],
)
def test_a_property_that_librdkafka_refuses_is_named(key: str, value: str, reason: str, secured: SecuredKafka) -> None:
    config = secured.sasl()
    config = msgspec.structs.replace(config, client={**config.client, key: value})
    with pytest.raises(ConfigError) as caught:
        connect(config)
    assert str(caught.value).startswith(f"config: kafka.client.{key}: expected properties of librdkafka (")
    assert reason in str(caught.value)
    assert "hunter2" not in str(caught.value)


class TestRights:
    """A login without rights, and one with the rights that SECURITY.md lists."""

    @pytest.fixture
    def stranger(self, secured: SecuredKafka) -> KafkaConfig:
        """Its topics exist."""
        config = secured.sasl(sasl_username=STRANGER)
        ensure_topics(connect(secured.admin()), msgspec.structs.replace(secured.admin(), topics=config.topics))
        return config

    def allow(
        self,
        secured: SecuredKafka,
        kind: ResourceType,
        name: str,
        *operations: AclOperation,
        pattern: ResourcePatternType = ResourcePatternType.LITERAL,
    ) -> None:
        allow = AclPermissionType.ALLOW
        acls = [AclBinding(kind, name, pattern, f"User:{STRANGER}", "*", each, allow) for each in operations]
        admin = connect(secured.admin())  # a client without a name is closed, and its calls never end
        for future in admin.create_acls(acls).values():
            future.result(10)

    def test_topics_that_the_login_may_not_see(self, stranger: KafkaConfig) -> None:
        lacks = r": .*[Aa]uthorization failed; the login lacks rights on the topic; SECURITY\.md lists the rights"
        with pytest.raises(UnavailableError, match=rf"kafka: topic .* cannot be created{lacks}"):
            ensure_topics(connect(stranger), stranger)
        fixed = msgspec.structs.replace(stranger, create_topics=False)
        with pytest.raises(UnavailableError, match=rf"kafka: topic .* cannot be seen{lacks}"):
            ensure_topics(connect(fixed), fixed)

    def test_a_topic_that_the_login_may_not_write(self, stranger: KafkaConfig) -> None:
        sink = Sink(stranger)
        sink.send(stranger.topics.raw, b"key", b"value")
        with pytest.raises(UnavailableError, match=r"was not delivered: .*; the login lacks rights on the topic"):
            sink.flush()
        sink.close()

    def test_a_topic_and_a_group_that_the_login_may_not_read(
        self, secured: SecuredKafka, stranger: KafkaConfig
    ) -> None:
        group = f"group-{time.time_ns()}"
        assert "the login lacks the right Read on the consumer group" in self.subscribed(stranger, group)
        self.allow(secured, ResourceType.GROUP, group, AclOperation.READ)
        assert "the login lacks rights on the topic" in self.subscribed(stranger, group)

    def subscribed(self, config: KafkaConfig, group: str) -> str:
        consumer = make_consumer(config, group)
        consumer.subscribe([config.topics.raw])
        return failure_of(consumer)

    def test_the_rights_of_the_documentation_are_enough(self, secured: SecuredKafka, stranger: KafkaConfig) -> None:
        for topic in msgspec.structs.asdict(stranger.topics).values():
            self.allow(secured, ResourceType.TOPIC, topic, AclOperation.READ, AclOperation.WRITE)
        self.allow(secured, ResourceType.GROUP, "volcast", AclOperation.READ, pattern=ResourcePatternType.PREFIXED)
        self.allow(
            secured,
            ResourceType.TRANSACTIONAL_ID,
            "volcast",
            AclOperation.WRITE,
            pattern=ResourcePatternType.PREFIXED,
        )
        config = msgspec.structs.replace(stranger, create_topics=False)
        ensure_topics(connect(config), config)
        assert not holds_records(config, config.topics.raw)
        sink = Sink(config)
        sink.send(config.topics.raw, b"key", b"value")
        sink.flush()
        sink.close()
        assert [message.value() for message in read_all(config, config.topics.raw, 1)] == [b"value"]
        transact(config)
        assert [message.value() for message in read_all(config, config.topics.features, 1)] == [b"value"]


def failure_of(consumer: Consumer) -> str:
    """The line with which a consumer ends."""
    deadline_s = time.monotonic() + 20
    try:
        while time.monotonic() < deadline_s:
            consume_batch(consumer, 10, 0.2)
    except UnavailableError as error:
        return str(error)
    finally:
        consumer.close()
    return "no failure"


class TestTopics:
    def test_they_are_created_as_the_configuration_says(self, secured: SecuredKafka) -> None:
        config = msgspec.structs.replace(secured.sasl(), partitions=3, replication_factor=1, retention_ms=86_400_000)
        admin = connect(config)
        ensure_topics(admin, config)
        topic = admin.list_topics(timeout=10).topics[config.topics.raw]
        assert len(topic.partitions) == 3
        assert self.retention(admin, config.topics.raw) == ("86400000", False)

    def test_by_default_the_broker_decides(self, secured: SecuredKafka) -> None:
        config = secured.sasl()
        admin = connect(config)
        ensure_topics(admin, config)
        assert self.retention(admin, config.topics.raw)[1]

    def retention(self, admin: AdminClient, topic: str) -> tuple[str, bool]:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        entry = admin.describe_configs([resource])[resource].result(10)["retention.ms"]
        return entry.value, entry.is_default or entry.source != 1  # 1: set on the topic

    def test_more_replicas_than_brokers(self, secured: SecuredKafka) -> None:
        config = msgspec.structs.replace(secured.sasl(), replication_factor=3)
        with pytest.raises(UnavailableError, match=r"cannot be created: .*; set kafka\.replication_factor to at most"):
            ensure_topics(connect(config), config)

    def test_a_missing_topic_that_must_not_be_created(self, secured: SecuredKafka) -> None:
        config = msgspec.structs.replace(secured.sasl(), create_topics=False, retention_ms=5000, replication_factor=1)
        admin = connect(config)
        with pytest.raises(UnavailableError) as caught:
            ensure_topics(admin, config)
        names = sorted(msgspec.structs.asdict(config.topics).values())
        create = f"`kafka-topics.sh --bootstrap-server {config.bootstrap_servers} --create --topic"
        options = "--partitions 1 --replication-factor 1 --config"
        line = str(caught.value)
        assert line.startswith(
            f"kafka: topics {', '.join(names)} missing, and kafka.create_topics is false; create each as in "
            f"{create} {names[0]} {options} retention.ms=5000` and "
            f"{create} {config.topics.snapshots} {options} cleanup.policy=compact --config "
        )
        assert line.count("retention.ms=5000") == 1
        assert not set(names) & set(admin.list_topics(timeout=10).topics)

    def test_existing_topics_are_enough(self, secured: SecuredKafka) -> None:
        config = secured.sasl()
        admin = connect(config)
        ensure_topics(admin, config)
        before = set(admin.list_topics(timeout=10).topics)
        fixed = msgspec.structs.replace(config, create_topics=False)
        ensure_topics(connect(fixed), fixed)
        assert (
            set(admin.list_topics(timeout=10).topics) == before >= set(msgspec.structs.asdict(config.topics).values())
        )

    def test_a_topic_that_disappears_under_a_consumer(
        self, secured: SecuredKafka, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pipeline.stream.kafka.UNKNOWN_TOPIC_S", 0.5)
        config = secured.sasl()
        consumer = make_consumer(config, f"group-{time.time_ns()}")
        consumer.subscribe([config.topics.raw])
        line = failure_of(consumer)
        assert line.startswith(f"kafka: cannot consume {config.topics.raw}: ")
        assert line.endswith("`volcast ingest` and `volcast worker` create the topics of section kafka")


def test_commands_take_the_login_from_the_environment_and_never_show_the_secret(
    secured: SecuredKafka, tmp_path: Path
) -> None:
    config = secured.sasl()
    ensure_topics(connect(config), config)
    environ = {
        **as_environ(config),
        "VOLCAST_KAFKA__CLIENT": json.dumps(config.client),
        "VOLCAST_KAFKA__CLIENT_SECRETS": f"{{sasl.password: {secured.password_file}}}",
    }
    done = volcast("check", "--duration", "1", "--json", environ=environ, cwd=tmp_path)
    assert json.loads(done.stdout)["problems"] == ["no tick came on ticks.raw; is `volcast ingest` running?"]
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong-horse")
    environ["VOLCAST_KAFKA__CLIENT_SECRETS"] = f"{{sasl.password: {wrong}}}"
    failed = volcast("check", "--duration", "1", environ=environ, cwd=tmp_path)
    assert failed.returncode == 1
    assert "the broker refuses the login" in failed.stderr
    for text in (done.stdout, done.stderr, failed.stdout, failed.stderr, repr(config), str(os.environ)):
        assert PASSWORD not in text
        assert "wrong-horse" not in text


def test_at_last_the_broker_restarts_and_nothing_is_lost(secured: SecuredKafka) -> None:
    # The consumer commits nothing, so it must remain a member while the broker is away.
    config = msgspec.structs.replace(secured.sasl(), session_timeout_ms=45_000)
    ensure_topics(connect(config), config)
    # A busy machine may take longer to start Kafka than a message waits by default.
    sink, consumer = Sink(config, {"message.timeout.ms": 150_000}), make_consumer(config, "group-restart")
    consumer.subscribe([config.topics.raw])
    values: list[int] = []
    for number in range(300):
        if number == 100:
            secured.stop()
        if number == 200:
            secured.start()
        sink.send(config.topics.raw, b"BTC-USD", b"%d" % number)
        sink.poll()
        values += [int(message.value() or b"") for message in consume_batch(consumer, 100, 0.01)]
    sink.flush(90)
    deadline_s = time.monotonic() + 90  # the coordinator starts anew, and the group with it
    while len(values) < 300 and time.monotonic() < deadline_s:
        values += [int(message.value() or b"") for message in consume_batch(consumer, 100, 0.1)]
    sink.close()
    consumer.close()
    assert values == list(range(300))
