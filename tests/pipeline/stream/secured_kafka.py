"""A real Apache Kafka as operators secure it: SASL_SSL with SCRAM-SHA-512, mTLS, and rights per user.

Listeners on loopback: `plain` (anonymous, all rights: the administrator), `sasl` (SASL_SSL), `mtls` (SSL, client
certificates required), `sasl_plain` (SASL without TLS), `elsewhere` (SSL at an address
that the certificate does not name).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.processes import free_port
from common.config import KafkaConfig
from tests.processes import ROOT, fresh_topics
from tests.server.security.authority import Authority

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
PASSWORD = "correct-horse-battery"
USER = "volcast"  # has all rights
STRANGER = "stranger"  # can log in, and has no rights
LISTENERS = {
    "plain": "PLAINTEXT",
    "sasl": "SASL_SSL",
    "mtls": "SSL",
    "sasl_plain": "SASL_PLAINTEXT",
    "elsewhere": "SSL",
}


def kafka_jars() -> Path:
    """The folder of Kafka's jars that deploy/kafka/run keeps; skips the test if it is missing."""
    pom = (ROOT / "deploy" / "kafka" / "pom.xml").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    jars = cache / "volcast" / f"kafka-{hashlib.sha256(pom).hexdigest()[:12]}"
    if shutil.which("java") is None or not jars.is_dir():
        pytest.skip("a secured Kafka needs Java and the jars that `make kafka` fetches")
    return jars


class SecuredKafka:
    """One broker in a folder of its own. `stop` and `start` keep data and ports."""

    def __init__(self, folder: Path) -> None:
        self._jars = kafka_jars()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.ports = {name: free_port() for name in (*LISTENERS, "controller")}
        self.authority = Authority()
        self.ca = self._write("ca.pem", self.authority.pem)
        self.client_cert, self.client_key = (
            self._write(name, content)
            for name, content in zip(("client.pem", "client.key"), self.authority.signed("client"), strict=True)
        )
        self.password_file = self._write("password", f"{PASSWORD}\n".encode())
        certificate, key = self.authority.signed("localhost")
        self._write("server.pem", key + certificate)
        self._settings = self._write("server.properties", self._properties().encode())
        self._format()

    def address(self, listener: str) -> str:
        return f"{_host(listener)}:{self.ports[listener]}"

    def config(
        self, listener: str, client: dict[str, str | int | float | bool], secrets: dict[str, str] | None = None
    ) -> KafkaConfig:
        return KafkaConfig(
            bootstrap_servers=self.address(listener),
            topics=fresh_topics(),
            client=client,
            client_secrets=secrets or {},
            timeout_s=10,
            session_timeout_ms=6000,
        )

    def admin(self) -> KafkaConfig:
        return self.config("plain", {})

    def sasl(self, user: str = USER) -> KafkaConfig:
        client = {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "ssl.ca.location": str(self.ca),
        }
        return self.config("sasl", client, {"sasl.password": str(self.password_file)})

    def mtls(self) -> KafkaConfig:
        client = {
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.ca),
            "ssl.certificate.location": str(self.client_cert),
            "ssl.key.location": str(self.client_key),
        }
        return self.config("mtls", client)

    def start(self) -> None:
        """Returns when all listeners accept connections."""
        log = (self._folder / "kafka.log").open("ab")
        command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *self._java(), "kafka.Kafka"]
        self._process = subprocess.Popen(
            [*command, str(self._settings)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
        log.close()
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not all(_accepts(_host(name), self.ports[name]) for name in LISTENERS):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.stop()
                pytest.fail(f"Kafka did not start: {(self._folder / 'kafka.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _java(self) -> list[str]:
        return ["-cp", f"{self._jars}/*", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]

    def _format(self) -> None:
        users = [f"SCRAM-SHA-512=[name={name},password={PASSWORD}]" for name in (USER, STRANGER)]
        scram = [argument for user in users for argument in ("--add-scram", user)]
        command = ["java", *self._java(), "kafka.tools.StorageTool", "format", "--standalone"]
        subprocess.run(
            [*command, "-t", "4L6g3nShT-eMCtK--X86sw", "-c", str(self._settings), *scram],
            check=True,
            capture_output=True,
        )

    def _write(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(content)
        return path

    def _properties(self) -> str:
        listeners = ",".join(f"{name.upper()}://{self.address(name)}" for name in (*LISTENERS, "controller"))
        protocols = {**LISTENERS, "controller": "PLAINTEXT"}
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": self.address("controller"),
            "listeners": listeners,
            "advertised.listeners": listeners.rpartition(",")[0],
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAIN",
            "listener.security.protocol.map": ",".join(f"{name.upper()}:{kind}" for name, kind in protocols.items()),
            "log.dirs": str(self._folder / "data"),
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._folder / "server.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca),
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.sasl_plain.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.mtls.ssl.client.auth": "required",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{USER};User:CN=client",
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())


def _host(listener: str) -> str:
    return "127.0.0.2" if listener == "elsewhere" else "127.0.0.1"


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=0.2).close()
    except OSError:
        return False
    return True
