"""Topics are created once, and used when they have leaders."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from common.config import KafkaConfig
from common.errors import UnavailableError
from pipeline.stream.kafka import connect
from pipeline.stream.kafka_topics import ensure_topics, topic_settings, warn_unless_compacted

CONFIG = KafkaConfig(timeout_s=5)


class FakeAdmin:
    """A cluster whose new topics have no leader for a while.

    leaderless: how many times metadata shows no leader after creation; creation: errors of the first attempts.
    """

    def __init__(self, leaderless: int = 0, creation: tuple[int, ...] = (), existing: tuple[str, ...] = ()) -> None:
        self.leaderless = leaderless
        self.creation = list(creation)
        self.names = set(existing)
        self.created: list[NewTopic] = []

    def list_topics(self, timeout: float) -> Any:
        leader = 1
        if self.names and self.leaderless:
            self.leaderless -= 1
            leader = -1
        topic = SimpleNamespace(partitions={0: SimpleNamespace(leader=1), 1: SimpleNamespace(leader=leader)})
        return SimpleNamespace(topics=dict.fromkeys(self.names, topic))

    def create_topics(self, topics: list[NewTopic], operation_timeout: float) -> dict[str, Future[None]]:
        future: Future[None] = Future()
        if self.creation:
            future.set_exception(KafkaException(KafkaError(self.creation.pop(0))))
        else:
            future.set_result(None)
            self.names.add(topics[0].topic)
            self.created += topics
        return {topics[0].topic: future}


def ensure(admin: FakeAdmin, config: KafkaConfig = CONFIG) -> None:
    ensure_topics(admin, config)  # type: ignore[arg-type]


def test_a_new_topic_is_used_when_all_its_partitions_have_leaders() -> None:
    admin = FakeAdmin(leaderless=3)
    ensure(admin)
    assert admin.leaderless == 0
    assert {topic.topic for topic in admin.created} == set(topic_settings(CONFIG))


def test_a_topic_without_a_leader_for_ever_is_reported() -> None:
    with pytest.raises(UnavailableError, match=r"^kafka: a topic has no leader: topic \S+ has no leader$"):
        ensure(FakeAdmin(leaderless=10**6), KafkaConfig(timeout_s=0.1))


@pytest.mark.parametrize("code", [KafkaError.NOT_CONTROLLER, KafkaError.REQUEST_TIMED_OUT])
def test_creation_is_tried_again_while_the_controller_moves(code: int) -> None:
    admin = FakeAdmin(creation=(code, code))
    ensure(admin)
    assert len(admin.created) == len(topic_settings(CONFIG))


def test_a_topic_that_another_process_creates_at_the_same_time_is_taken() -> None:
    others = tuple(name for name in topic_settings(CONFIG) if name != CONFIG.topics.dead)
    admin = FakeAdmin(creation=(KafkaError.TOPIC_ALREADY_EXISTS,), existing=others)
    with pytest.raises(UnavailableError, match="has no leader"):  # it is not in the metadata yet
        ensure(admin, KafkaConfig(timeout_s=0.1))
    admin.names.add(CONFIG.topics.dead)
    ensure(admin)
    assert not admin.created


def test_a_creation_that_is_refused_is_reported_once() -> None:
    admin = FakeAdmin(creation=(KafkaError.POLICY_VIOLATION,))
    with pytest.raises(UnavailableError, match=r"^kafka: topic \S+ cannot be created: Broker: Policy violation$"):
        ensure(admin)


def test_replicas_and_retention_are_those_of_the_configuration_or_of_the_broker() -> None:
    by_default, chosen = FakeAdmin(), FakeAdmin()
    ensure(by_default)
    ensure(chosen, KafkaConfig(partitions=6, replication_factor=3, retention_ms=-1))
    assert {(topic.num_partitions, topic.replication_factor) for topic in by_default.created} == {(1, -1)}
    assert {(topic.num_partitions, topic.replication_factor) for topic in chosen.created} == {(6, 3)}
    assert set(topic_settings(CONFIG)) == set(topic_settings(KafkaConfig(retention_ms=5)))
    compacted = CONFIG.topics.snapshots
    by_name, kept = topic_settings(CONFIG), topic_settings(KafkaConfig(retention_ms=-1))
    assert all(settings == {} for name, settings in by_name.items() if name != compacted)
    assert all(settings == {"retention.ms": "-1"} for name, settings in kept.items() if name != compacted)
    assert by_name[compacted] == kept[compacted]  # compaction keeps the newest record of each key, whatever its age
    assert by_name[compacted]["cleanup.policy"] == "compact"


def set_policy(admin: AdminClient, topic: str, policy: str) -> None:
    entry = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    (future,) = admin.incremental_alter_configs([resource]).values()
    future.result(10)


@pytest.mark.parametrize("policy", ["compact", "delete", "compact,delete"])
def test_a_topic_of_snapshots_that_deletes_is_reported(kafka: KafkaConfig, policy: str) -> None:
    admin = connect(kafka)
    if policy != "compact":
        set_policy(admin, kafka.topics.snapshots, policy)
    with structlog.testing.capture_logs() as events:
        warn_unless_compacted(admin, kafka)
    assert [event["cleanup_policy"] for event in events] == ([] if policy == "compact" else [policy])
    assert all(kafka.topics.snapshots in event["hint"] for event in events)


def test_a_topic_whose_settings_cannot_be_seen_is_not_reported(kafka: KafkaConfig) -> None:
    missing = KafkaConfig(bootstrap_servers=kafka.bootstrap_servers)
    with structlog.testing.capture_logs() as events:
        warn_unless_compacted(connect(kafka), missing)
    assert events == []
