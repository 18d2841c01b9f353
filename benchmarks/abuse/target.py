"""A server under abuse, and the well-formed caller beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import grpc

from benchmarks.abuse.corpus import PREDICT, packed
from benchmarks.processes import Process, free_port
from common.status import STATUS_FD
from volcast.v1 import PredictResponse

HANDSHAKE_S = 3.0
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    *((f"grpc.{name}_reconnect_backoff_ms", 100) for name in ("initial", "min", "max")),
]
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_FAULTS = ("request_failed", "Fatal error", "Exception in callback")
_NATIVE_FAULTS = (*_FAULTS, "Traceback", "Task exception")  # grpc.aio logs its own of callers' faults


class Target(Process):
    """front: native or grpcio."""

    front: str
    log: IO[bytes]
    popen: subprocess.Popen[bytes]

    def faults(self) -> list[str]:
        """Lines of its log that speak of a fault of ours."""
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").splitlines()
        words = _NATIVE_FAULTS if self.front == "native" else _FAULTS
        return [line for line in lines if any(word in line for word in words)]

    def lost_listeners(self) -> int:
        """How often the grpcio front had to listen anew (server.grpcio.front)."""
        self.log.seek(0)
        return self.log.read().count(b"listener_lost")

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None


@contextmanager
def serving(front: str) -> Iterator[Target]:
    read_end, write_end = os.pipe()
    port = free_port()
    options = ("--port", str(port), "--metrics-port", "0", "--front", front)
    environ = {
        **os.environ,
        STATUS_FD: str(write_end),
        "VOLCAST_SERVER__HANDSHAKE_TIMEOUT_S": str(HANDSHAKE_S),
        "VOLCAST_SERVER__LAME_DUCK_S": "0",
        "VOLCAST_LOG__FORMAT": "json",
    }
    with tempfile.TemporaryFile() as log, os.fdopen(read_end) as reports:
        popen = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "serve", *options], env=environ, pass_fds=[write_end], stderr=log
        )
        os.close(write_end)
        try:
            first = reports.readline()
            if not first or json.loads(first)["event"] != "ready":
                raise RuntimeError("the inference server did not start; see: volcast serve")
            # Nobody may let the pipe fill up: the server would wait for its reader.
            threading.Thread(target=lambda: [None for _ in reports], daemon=True).start()
            target = Target(f"127.0.0.1:{port}", popen.pid, 0.0)
            for name, value in (("front", front), ("log", log), ("popen", popen)):
                object.__setattr__(target, name, value)
            yield target
        finally:
            popen.send_signal(signal.SIGTERM)
            try:
                popen.wait(15)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()


class Witness:
    """Calls all the while, one call at a time; every answer must be the first one's.

    retries: how often a call may be tried again that found the server unavailable.
    """

    def __init__(self, address: str, retries: int = 0, pause_s: float = 0.01) -> None:
        self.calls = 0
        self.retried = 0
        self.refused = 0
        self.late = 0  # calls that met their deadline
        self._retries = retries
        self.wrong: list[str] = []
        self._address = address
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        raw = packed(3).SerializeToString()
        with grpc.insecure_channel(self._address, _OPTIONS) as channel:
            call: Any = channel.unary_unary(PREDICT)
            wanted: list[float] = []
            tries = 0
            while not self._stop.wait(self._pause_s):
                try:
                    answer = PredictResponse.FromString(call(raw, timeout=10))
                except grpc.RpcError as error:
                    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:  # an attack fills the queue: told at once
                        self.refused += 1
                        continue
                    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                        self.late += 1
                        continue
                    if error.code() in _LOST and tries < self._retries:
                        tries += 1
                        self.retried += 1
                        continue
                    self.wrong.append(f"{error.code().name}: {error.details()}")
                    continue
                tries = 0
                wanted = wanted or list(answer.probabilities)
                if list(answer.probabilities) != wanted or len(wanted) != 3:
                    self.wrong.append("another answer")
                self.calls += 1


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
