"""The topics of the pipeline: created if they are missing, and waited for until they have leaders."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from common.config import KafkaConfig
from common.errors import UnavailableError
from common.log import get_logger
from pipeline.stream.kafka_errors import failure, kafka_error, retrying

# A restart of a worker reads its whole partition of the topic of snapshots. Compaction runs on closed segments only,
# so segments are small and close early.
COMPACTED = {
    "cleanup.policy": "compact",
    "segment.bytes": str(16 * 1024 * 1024),
    "segment.ms": "600000",
    "min.cleanable.dirty.ratio": "0.2",
    "delete.retention.ms": "600000",
}

BROKERS_DEFAULT = -1  # of NewTopic, Kafka 2.4 and later (KIP-464)


def topic_settings(config: KafkaConfig) -> dict[str, dict[str, str]]:
    """The name of each topic with the settings that it is created with."""
    topics = config.topics
    kept = {"retention.ms": str(config.retention_ms)} if config.retention_ms else {}
    kept_for_a_time = (topics.raw, topics.features, topics.predictions, topics.late, topics.dead)
    return {**dict.fromkeys(kept_for_a_time, kept), topics.snapshots: COMPACTED}


def ensure_topics(admin: AdminClient, config: KafkaConfig) -> None:
    """Creates missing topics, with `kafka.partitions` partitions each, and waits until all topics have leaders.

    Raises UnavailableError if a topic is missing and cannot or must not be created, or has no leader.
    """
    wanted = topic_settings(config)
    known = retrying(
        lambda: admin.list_topics(timeout=config.timeout_s).topics, "the topics cannot be listed", config.timeout_s
    )
    missing = sorted(wanted.keys() - known)
    if missing and not config.create_topics:
        raise _missing(admin, config, missing)
    for name in missing:
        retrying(
            lambda name=name: _create(admin, config, name, wanted[name]),  # type: ignore[misc]
            f"topic {name} cannot be created",
            config.timeout_s,
        )
    retrying(lambda: _require_leaders(admin, wanted, config.timeout_s), "a topic has no leader", config.timeout_s)


def _create(admin: AdminClient, config: KafkaConfig, name: str, settings: dict[str, str]) -> None:
    topic = NewTopic(name, config.partitions, config.replication_factor or BROKERS_DEFAULT, config=settings)
    try:
        admin.create_topics([topic], operation_timeout=config.timeout_s)[name].result(timeout=config.timeout_s)
    except KafkaException as error:
        # Another process of ours may have been quicker, or an attempt of ours whose answer was lost.
        if kafka_error(error).code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def _require_leaders(admin: AdminClient, names: dict[str, dict[str, str]], timeout_s: float) -> None:
    """Raises KafkaException, retriable, until each partition of the topics has a leader."""
    known = admin.list_topics(timeout=timeout_s).topics
    for name in names:
        partitions = known[name].partitions.values() if name in known else ()
        if not partitions or any(partition.leader < 0 for partition in partitions):
            raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE, f"topic {name} has no leader"))


def _missing(admin: AdminClient, config: KafkaConfig, names: list[str]) -> UnavailableError:
    """Why a topic cannot be seen: it does not exist, or the login may not see it."""
    described = admin.describe_topics(TopicCollection(names), request_timeout=config.timeout_s)
    for name, future in described.items():
        try:
            future.result(timeout=config.timeout_s)
        except KafkaException as error:
            if kafka_error(error).code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                return failure(f"topic {name} cannot be seen", kafka_error(error))
    plain = [name for name in names if name != config.topics.snapshots]
    commands = [_creation(config, plain[0])] if plain else []
    if len(plain) < len(names):
        commands.append(_creation(config, config.topics.snapshots))
    every = "topics" if len(names) > 1 else "topic"
    return UnavailableError(
        f"kafka: {every} {', '.join(names)} missing, and kafka.create_topics is false; create "
        f"{'each as in ' if len(plain) > 1 else 'it with ' if len(names) == 1 else ''}{' and '.join(commands)}"
    )


def _creation(config: KafkaConfig, name: str) -> str:
    """The command that creates a topic as Volcast would."""
    options = f"--partitions {config.partitions}"
    if config.replication_factor:
        options += f" --replication-factor {config.replication_factor}"
    for key, value in topic_settings(config)[name].items():
        options += f" --config {key}={value}"
    return f"`kafka-topics.sh --bootstrap-server {config.bootstrap_servers} --create --topic {name} {options}`"


def warn_unless_compacted(admin: AdminClient, config: KafkaConfig) -> None:
    """Logs a warning if the topic of snapshots deletes records by age or size, or keeps all of them.

    A topic that somebody else created may. If it deletes, products that are quiet for long lose their windows; if it
    is not compacted, a restart reads more and more.
    """
    topic = config.topics.snapshots
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        (described,) = admin.describe_configs([resource], request_timeout=config.timeout_s).values()
        policy = described.result(timeout=config.timeout_s)["cleanup.policy"].value
    except (KafkaException, TimeoutError, KeyError):
        return  # the login may lack the right to see it
    if policy != "compact":
        get_logger().warning(
            "the topic of snapshots is not compacted",
            topic=topic,
            cleanup_policy=policy,
            hint=f"kafka-configs.sh --bootstrap-server {config.bootstrap_servers} --alter --entity-type topics "
            f"--entity-name {topic} --add-config cleanup.policy=compact",
        )
