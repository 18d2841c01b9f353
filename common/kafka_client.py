"""Which properties of librdkafka `kafka.client` and `kafka.client_secrets` accept.

`kafka.client` holds properties that are no secrets. `kafka.client_secrets` holds, for each secret property, the path
of a file with its value. So the configuration itself never contains a secret, and values that look like a secret in
the wrong place are not repeated in an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from common.errors import ConfigError

# The program sets these properties itself. The text names the key, if any, that a user sets instead.
_CORRECTNESS = "no such key: Volcast sets it, since no tick may be lost, repeated or moved"
_CALLBACK = "no such key: Volcast sets callbacks itself"
OWNED: dict[str, str] = {
    "bootstrap.servers": "kafka.bootstrap_servers instead",
    "metadata.broker.list": "kafka.bootstrap_servers instead",
    "group.id": "worker.group_id instead",
    "group.instance.id": "worker.instance_id instead",
    "session.timeout.ms": "kafka.session_timeout_ms instead",
    "heartbeat.interval.ms": "kafka.session_timeout_ms instead",
    "linger.ms": "kafka.linger_ms instead",
    "queue.buffering.max.ms": "kafka.linger_ms instead",
    **dict.fromkeys(
        (
            "acks",
            "allow.auto.create.topics",
            "auto.commit.enable",
            "auto.commit.interval.ms",
            "auto.offset.reset",
            "delivery.report.only.error",
            "delivery.timeout.ms",
            "enable.auto.commit",
            "enable.auto.offset.store",
            "enable.gapless.guarantee",
            "enable.idempotence",
            "enable.partition.eof",
            "group.protocol",
            "group.protocol.type",
            "group.remote.assignor",
            "isolation.level",
            "max.in.flight",
            "max.in.flight.requests.per.connection",
            "message.send.max.retries",
            "message.timeout.ms",
            "partition.assignment.strategy",
            "partitioner",
            "queuing.strategy",
            "request.required.acks",
            "retries",
            "transaction.timeout.ms",
            "transactional.id",
        ),
        _CORRECTNESS,
    ),
    **dict.fromkeys(("logger", "on_delivery", "default.topic.config", "opaque"), _CALLBACK),
}

# Properties of Java clients, and what librdkafka has instead.
JAVA: dict[str, str] = {
    "sasl.jaas.config": "kafka.client.sasl.username and kafka.client_secrets.sasl.password instead",
    "ssl.truststore.location": "kafka.client.ssl.ca.location instead, a PEM file",
    "ssl.truststore.password": "kafka.client.ssl.ca.location instead, a PEM file",
    "ssl.truststore.type": "kafka.client.ssl.ca.location instead, a PEM file",
    "ssl.keystore.type": "kafka.client.ssl.keystore.location instead, a PKCS#12 file",
}

_SECRET = re.compile(r"(password|passphrase|secret|key\.pem|^ssl_key|^sasl\.oauthbearer\.config)$")
_LOOKS_SECRET = re.compile(
    r"pass|pwd|secret|jaas|credential|private|key.?pem|ssl_key|oauthbearer.config", re.IGNORECASE
)


class Hidden:
    """Stands in an error for a value that may be a secret."""

    def __repr__(self) -> str:
        return "a value that is not shown"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hidden)

    def __hash__(self) -> int:
        return hash(Hidden)


HIDDEN = Hidden()


def is_secret(key: str) -> bool:
    """Whether a property of librdkafka is a secret, which belongs in a file."""
    return _SECRET.search(key) is not None


def shown(key: str, value: Any) -> Any:
    """The value for an error: hidden if its key, or its text, looks like that of a secret. Also below it."""
    if _LOOKS_SECRET.search(key) or (isinstance(value, str) and _LOOKS_SECRET.search(value)):
        return HIDDEN
    if isinstance(value, Mapping):
        return {name: shown(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shown(key, inner) for inner in value]
    return value


def check_client(client: Any, secrets: Any) -> None:
    """Raises ConfigError for a property that Volcast sets itself, a secret in the open, or a value of a wrong type."""
    _check_mapping("kafka.client", client, "a section of librdkafka's properties, such as security.protocol: SASL_SSL")
    _check_mapping("kafka.client_secrets", secrets, "a section such as sasl.password: FILE")
    for key, value in client.items():
        _check_key("kafka.client", key, value)
        if is_secret(key):
            raise ConfigError(f"kafka.client.{key}", HIDDEN, f"a file with it in kafka.client_secrets.{key}")
        if not isinstance(value, str | int | float):
            raise ConfigError(f"kafka.client.{key}", HIDDEN, "text, a number, true or false")
    for key, value in secrets.items():
        _check_key("kafka.client_secrets", key, value)
        if not is_secret(key):
            raise ConfigError(f"kafka.client_secrets.{key}", HIDDEN, f"kafka.client.{key} instead: it is no secret")
        if not isinstance(value, str) or not value or "\n" in value:
            raise ConfigError(f"kafka.client_secrets.{key}", HIDDEN, "the path of a file")
    _check_login(client)


def _check_mapping(name: str, value: Any, expected: str) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(name, HIDDEN, expected)


def _check_key(section: str, key: Any, value: Any) -> None:
    if not isinstance(key, str):
        raise ConfigError(section, key, "keys that are names")
    if instead := JAVA.get(key) or OWNED.get(key) or (_CALLBACK if key.endswith("_cb") else None):
        raise ConfigError(f"{section}.{key}", shown(key, value), instead)


def _check_login(client: Mapping[str, Any]) -> None:
    """librdkafka's own default is Kerberos, which its wheels do not contain."""
    protocol = str(client.get("security.protocol", ""))
    if protocol.upper().startswith("SASL") and not client.keys() & {"sasl.mechanism", "sasl.mechanisms"}:
        raise ConfigError("kafka.client.sasl.mechanism", None, "a mechanism such as SCRAM-SHA-512 or PLAIN")
