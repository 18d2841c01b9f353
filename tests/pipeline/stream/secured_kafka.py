"""A real Apache Kafka as operators secure it: TLS, SCRAM-SHA-512, client certificates, and rights per user."""

from __future__ import annotations

from pathlib import Path

from benchmarks.processes import free_port
from common.config import KafkaConfig
from pipeline.broker.kafka import KafkaBroker
from pipeline.broker.properties import Listener
from tests.processes import fresh_topics
from tests.server.security.authority import Authority

PASSWORD = "correct-horse-battery"
USER = "volcast"  # has all rights
STRANGER = "stranger"  # can log in, and has no rights

Properties = dict[str, str | int | float | bool]


class SecuredKafka(KafkaBroker):
    """Listeners: PLAINTEXT (anonymous, with all rights: the administrator), SASL (SASL_SSL), SASL_PLAIN (without TLS),
    MTLS (SSL, a client certificate is required), TLS (SSL), ELSEWHERE (SSL at an address that the certificate
    does not name), and EXPIRED (SSL with an expired certificate).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.ca = self.write("ca.pem", self.authority.pem)
        certificate, key = self.authority.signed("client")
        self.client_cert, self.client_key = self.write("client.pem", certificate), self.write("client.key", key)
        self.password_file = self.write("password", f"{PASSWORD}\n".encode())
        certificate, key = self.authority.signed("localhost")
        certificate_before, key_before = self.authority.signed("localhost", days=-1)
        expired = {"ssl.keystore.location": str(self.write("expired.pem", key_before + certificate_before))}
        tls = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.write("server.pem", key + certificate)),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca),
        }
        scram = {"scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;"}
        super().__init__(
            folder / "kafka",
            port=free_port(),
            controller_port=free_port(),
            listeners=[
                Listener("SASL", "SASL_SSL", free_port(), properties=scram),
                Listener("SASL_PLAIN", "SASL_PLAINTEXT", free_port(), properties=scram),
                Listener("MTLS", "SSL", free_port(), properties={"ssl.client.auth": "required"}),
                Listener("TLS", "SSL", free_port()),
                Listener("ELSEWHERE", "SSL", free_port(), host="127.0.0.2"),
                Listener("EXPIRED", "SSL", free_port(), properties={**expired, "ssl.keystore.type": "PEM"}),
            ],
            properties={
                **tls,
                "sasl.enabled.mechanisms": "SCRAM-SHA-512",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": f"User:ANONYMOUS;User:{USER};User:CN=client",
            },
            format_arguments=[
                argument
                for name in (USER, STRANGER)
                for argument in ("--add-scram", f"SCRAM-SHA-512=[name={name},password={PASSWORD}]")
            ],
        )

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def config(self, listener: str, client: Properties, secrets: dict[str, str] | None = None) -> KafkaConfig:
        """Topics that no other test has; they do not exist yet."""
        return KafkaConfig(
            bootstrap_servers=self.bootstrap_servers if listener == "PLAINTEXT" else self.address(listener),
            topics=fresh_topics(),
            client=client,
            client_secrets=secrets or {},
            timeout_s=10,
            session_timeout_ms=6000,
        )

    def admin(self) -> KafkaConfig:
        return self.config("PLAINTEXT", {})

    def sasl(self, listener: str = "SASL", **changed: str) -> KafkaConfig:
        """changed: properties of librdkafka with `_` for each dot; "" leaves a property out."""
        client: Properties = {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": USER,
            "ssl.ca.location": str(self.ca),
        }
        return self.config(listener, _changed(client, changed), {"sasl.password": str(self.password_file)})

    def mtls(self, listener: str = "MTLS", **changed: str) -> KafkaConfig:
        """changed: as in `sasl`."""
        client: Properties = {
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.ca),
            "ssl.certificate.location": str(self.client_cert),
            "ssl.key.location": str(self.client_key),
        }
        return self.config(listener, _changed(client, changed))


def _changed(client: Properties, changed: dict[str, str]) -> Properties:
    merged = client | {key.replace("_", "."): value for key, value in changed.items()}
    return {key: value for key, value in merged.items() if value != ""}
