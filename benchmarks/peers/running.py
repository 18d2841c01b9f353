"""A peer as a process of its own on loopback, proved to answer as the model does."""

from __future__ import annotations

import http.client
import os
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic, sleep

import grpc
import numpy as np
import onnxruntime
from rich.console import Console

from benchmarks.peers.environments import python_of
from benchmarks.peers.messages import Rows
from benchmarks.peers.specs import HERE, PEERS, Spec
from benchmarks.processes import free_port
from common.schema import CORE_1, CORE_1_EXAMPLE

ROOT = HERE.parents[1]
MODEL = ROOT / "models" / "volatility" / "1" / "model.onnx"
ROW = [CORE_1_EXAMPLE[name] for name in CORE_1.names]
TOLERANCE = 1e-6
ANSWER_S = 5.0


class WrongAnswerError(RuntimeError):
    """The peer answers, but not with the model's probabilities."""


@dataclass(frozen=True)
class Target:
    """A running peer, as a load generator needs it."""

    spec: Spec
    port: int

    @property
    def protocol(self) -> str:
        return self.spec.door.protocol

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def path(self) -> str:
        return self.spec.door.path

    @property
    def url(self) -> str:
        return f"http://{self.address}{self.path}"

    @property
    def headers(self) -> dict[str, str]:
        if self.protocol == "grpc":
            return {"content-type": "application/grpc", "te": "trailers"}
        return {"content-type": "application/json"}

    def body(self, rows: Rows = (ROW,)) -> bytes:
        """What a raw HTTP client posts: the message, for gRPC behind its five bytes of length."""
        message = self.spec.door.encode(rows)
        return b"\0" + struct.pack(">I", len(message)) + message if self.protocol == "grpc" else message

    def ask(self, rows: Rows) -> list[float]:
        """The peer's probabilities, through an ordinary client."""
        message = self.spec.door.encode(rows)
        raw = self._ask_grpc(message) if self.protocol == "grpc" else self._ask_http(message)
        return self.spec.door.decode(raw)

    def check(self) -> None:
        """Raises unless one row and three get the probabilities that ONNX Runtime gives here."""
        other = [value * 1.01 for value in ROW]
        for rows in ([ROW], [ROW, other, ROW]):
            got, expected = self.ask(rows), _expected(rows)
            if len(got) != len(expected) or not np.allclose(got, expected, rtol=0, atol=TOLERANCE):
                raise WrongAnswerError(f"{self.spec.name} answers {got}, the model {expected}")

    def _ask_grpc(self, message: bytes) -> bytes:
        with grpc.insecure_channel(self.address) as channel:
            answer: bytes = channel.unary_unary(self.path, bytes, bytes)(message, timeout=ANSWER_S)
            return answer

    def _ask_http(self, message: bytes) -> bytes:
        connection = http.client.HTTPConnection(self.address, timeout=ANSWER_S)
        try:
            connection.request("POST", self.path, message, self.headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ConnectionError(f"HTTP {answer.status}: {body[:200]!r}")
        return body


@contextmanager
def peer(name: str, console: Console | None = None) -> Iterator[Target]:
    """The peer of that name, installed if need be, ready and checked; ended with all it started."""
    spec = PEERS[name]
    python = python_of(spec.path, console or Console(stderr=True))
    # Home and working folder of the run: what frameworks leave there goes with it.
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as home:
        port = free_port()
        log = Path(home, "log")
        with log.open("wb") as output:
            command = [sys.executable, "-P", str(HERE / "keeper.py"), str(python), *_arguments(spec, port)]
            process = subprocess.Popen(
                command, cwd=home, env=_environment(spec, port, home), stdout=output, stderr=output
            )
        try:
            target = Target(spec, port)
            _await_ready(target, process, log)
            target.check()
            yield target
        finally:
            process.terminate()
            process.wait(30)


def _arguments(spec: Spec, port: int) -> list[str]:
    return [part.format(port=port, folder=spec.path) for part in spec.command]


def _environment(spec: Spec, port: int, home: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {
        **inherited,
        "HOME": home,
        "XDG_CACHE_HOME": home,
        "TMPDIR": home,
        "PYTHONPATH": os.pathsep.join((str(HERE / "shared"), str(ROOT / "proto"))),
        # Triton's Python backend is linked to libpython: it must find the one of its own environment.
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
        "OMP_NUM_THREADS": "1",
        "PEER_MODEL": str(MODEL),
        "PEER_PORT": str(port),
        "PEER_SPARE_PORT": str(free_port()),
        "PEER_THIRD_PORT": str(free_port()),
        **{key: value.format(port=port, next_port=port + 1) for key, value in spec.env.items()},
    }


def _await_ready(target: Target, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers a request; while it starts there is nobody there, or one who refuses."""
    deadline_s = monotonic() + target.spec.ready_s
    while True:
        try:
            target.ask([ROW])
        except (grpc.RpcError, OSError, http.client.HTTPException) as error:
            if process.poll() is not None or monotonic() > deadline_s:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise RuntimeError(f"{target.spec.name} did not get ready: {error}\n{tail}") from error
            sleep(0.1)
        else:
            return


def _expected(rows: Rows) -> list[float]:
    probabilities: list[float] = _model().run(None, {"features": np.array(rows)})[0].reshape(-1).tolist()
    return probabilities


@cache
def _model() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
