"""One Kafka broker, or a cluster of three in which each record is on all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from confluent_kafka.admin import AdminClient

from benchmarks.processes import free_port
from common.config import KafkaConfig
from common.errors import UnavailableError
from pipeline.broker.kafka import KafkaBroker
from pipeline.stream.kafka import connect

IN_SYNC_S = 120.0
START_ATTEMPTS = 3
# Retention acts within a second. The defaults are 30 s after the start and then every five minutes.
PROMPT_RETENTION = {"log.initial.task.delay.ms": "1000", "log.retention.check.interval.ms": "1000"}


class Brokers:
    """Starts `count` brokers (1 or 3) below `folder`, and ends them with the context."""

    def __init__(self, folder: Path, count: int) -> None:
        properties = [PROMPT_RETENTION] if count == 1 else _cluster(count)
        # Quorum voters need ports that are known before the first broker starts.
        self._brokers = [
            KafkaBroker(folder / f"kafka-{number}", properties=lines, controller_port=_controller_port(lines))
            for number, lines in enumerate(properties, 1)
        ]
        # A broker ends with the thread that started it, so these threads last as long as the brokers.
        self._threads = ThreadPoolExecutor(count)

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(broker.bootstrap_servers for broker in self._brokers)

    @property
    def first(self) -> KafkaBroker:
        return self._brokers[0]

    def __enter__(self) -> Brokers:
        with ExitStack() as cleanup:
            cleanup.callback(self._threads.shutdown)
            for broker in self._brokers:
                cleanup.callback(broker.stop)
            # Together: no broker answers before most of them have voted.
            list(self._threads.map(KafkaBroker.start, self._brokers))
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def kill(self, node: int = 1) -> None:
        self._brokers[node - 1].kill()

    def start(self, node: int = 1) -> None:
        """Starts a broker again. On an overloaded machine an attempt may time out."""
        for attempt in range(START_ATTEMPTS):
            try:
                self._threads.submit(self._brokers[node - 1].start).result()
                return
            except UnavailableError:
                if attempt == START_ATTEMPTS - 1:
                    raise

    def admin(self) -> AdminClient:
        return connect(KafkaConfig(bootstrap_servers=self.bootstrap_servers))

    def leader(self, topic: str, partition: int) -> int:
        """The node that leads a partition."""
        leader: int = self.admin().list_topics(topic, 10).topics[topic].partitions[partition].leader
        return leader

    def await_in_sync(self, topics: Sequence[str]) -> None:
        """Until all brokers hold all records of the topics. Raises UnavailableError after IN_SYNC_S."""
        deadline_s = time.monotonic() + IN_SYNC_S
        admin = self.admin()
        while True:
            known = admin.list_topics(timeout=10).topics
            behind = [
                topic
                for topic in topics
                for partition in known[topic].partitions.values()
                if len(partition.isrs) < len(self._brokers)
            ]
            if not behind:
                return
            if time.monotonic() > deadline_s:
                raise UnavailableError(f"brokers: not in sync within {IN_SYNC_S:g} s: {', '.join(sorted(set(behind)))}")
            time.sleep(0.1)


def _controller_port(properties: dict[str, str]) -> int:
    voters = properties.get("controller.quorum.voters", "")
    node = properties.get("node.id", "")
    return next((int(voter.rpartition(":")[2]) for voter in voters.split(",") if voter.startswith(f"{node}@")), 0)


def _cluster(count: int) -> list[dict[str, str]]:
    """The properties of each node. A write needs two of three brokers, so any single broker may fail."""
    voters = ",".join(f"{node}@127.0.0.1:{free_port()}" for node in range(1, count + 1))
    shared = {
        **PROMPT_RETENTION,
        "controller.quorum.voters": voters,
        "default.replication.factor": str(count),
        "min.insync.replicas": "2",
        "offsets.topic.replication.factor": str(count),
        "offsets.topic.num.partitions": "3",
        "transaction.state.log.replication.factor": str(count),
        "transaction.state.log.min.isr": "2",
        "transaction.state.log.num.partitions": "3",
    }
    return [{**shared, "node.id": str(node)} for node in range(1, count + 1)]
