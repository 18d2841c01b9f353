"""server.properties of one Kafka node that is broker and controller (KRaft)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.config import reachable

# deploy/compose.yaml has the same id, so each can read the data of the other.
CLUSTER_ID = "dm9sY2FzdC1vbmUtbm9kZQ"
CONTROLLER_HOST = "127.0.0.1"
MIN_SEGMENT_BYTES = 1024 * 1024  # Kafka 4 refuses less (KIP-1030)
MAX_SEGMENT_BYTES = 256 * 1024 * 1024
SEGMENTS_PER_RETENTION = 4


@dataclass(frozen=True, slots=True)
class Listener:
    """A further listener beside the plaintext one, such as SASL_SSL or SSL (mTLS)."""

    name: str
    protocol: str  # PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL
    port: int  # 0: any free port
    host: str = "127.0.0.1"
    # Without the prefix `listener.name.NAME.`, such as {"ssl.client.auth": "required"}.
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return reachable(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Retention:
    """How much Kafka keeps of each partition; it deletes whole segments."""

    max_bytes: int = 1024 * 1024 * 1024
    max_s: float = 7 * 24 * 3600.0

    def properties(self) -> dict[str, str]:
        segment_bytes = self.max_bytes // SEGMENTS_PER_RETENTION
        return {
            "log.retention.bytes": str(self.max_bytes),
            "log.retention.ms": str(int(self.max_s * 1000)),
            "log.segment.bytes": str(min(max(segment_bytes, MIN_SEGMENT_BYTES), MAX_SEGMENT_BYTES)),
        }


def server_properties(
    plaintext: Listener, controller_port: int, data_dir: Path, retention: Retention, listeners: Sequence[Listener] = ()
) -> dict[str, str]:
    """The properties of a single node. Only the controller's listener is never reachable from other machines."""
    everyone = [plaintext, *listeners]
    controller = f"CONTROLLER://{CONTROLLER_HOST}:{controller_port}"
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{CONTROLLER_HOST}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": plaintext.name,
        "listeners": ",".join([*(_url(each, each.host) for each in everyone), controller]),
        "advertised.listeners": ",".join(f"{each.name}://{each.address}" for each in everyone),
        "listener.security.protocol.map": ",".join(
            [*(f"{each.name}:{each.protocol}" for each in everyone), "CONTROLLER:PLAINTEXT"]
        ),
        "log.dirs": str(data_dir / "log"),
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # Of a single machine: 50 partitions of each would be 100 folders and open files.
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        # After kill -9, Kafka registers again only once the session before has expired: 12 s at the default of 9 s.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "1000",
        # Readers of committed records wait for the open transaction of a worker that died; the default checks in 10 s.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        **retention.properties(),
    }
    for each in listeners:
        prefix = f"listener.name.{each.name.lower()}."
        properties |= {prefix + key: value for key, value in each.properties.items()}
    return properties


def _url(listener: Listener, host: str) -> str:
    return f"{listener.name}://[{host}]:{listener.port}" if ":" in host else f"{listener.name}://{host}:{listener.port}"


def as_text(properties: Mapping[str, str]) -> str:
    """In the form of a Java properties file, where a backslash escapes."""
    return "".join(f"{key}={value.replace(chr(92), chr(92) * 2)}\n" for key, value in sorted(properties.items()))
