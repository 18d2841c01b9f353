"""Servers under measurement, as processes of their own on loopback."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from time import perf_counter

from benchmarks.checkout import Checkout
from common.status import STATUS_FD

_MB = 1e6
_MODELS_DIR = "VOLCAST_SERVER__MODELS_DIR"
# Where it is set nothing that was compiled is kept, and a start is mostly the compiler's.
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


_given: set[int] = set()
_claims: int | None = None  # the descriptor of a file in which a locked byte claims the port of that number


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has, and that no process of this user is given again while this process lives.

    It lies below the ports that the kernel takes for outgoing connections. A port of those may be taken by any of them
    between this call and the start of the server that gets it.
    """
    global _claims
    if _claims is None:
        file = Path(tempfile.gettempdir()) / f"volcast-ports-{os.getuid()}"
        _claims = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    ports = _choices()
    first = secrets.randbelow(len(ports))
    for port in chain(ports[first:], ports[:first]):
        if port not in _given and _claimed(_claims, port) and _is_free(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no port of {ports} is free")


def _choices() -> range:
    outgoing = int(_OUTGOING.read_text().split()[0]) if _OUTGOING.exists() else 32_768
    return range(min(10_000, outgoing // 2), outgoing)


def _claimed(claims: int, port: int) -> bool:
    """POSIX locks end with their process, and a child does not inherit them."""
    try:
        fcntl.lockf(claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class Process:
    """A server's process, as the kernel accounts for it."""

    address: str
    pid: int
    ready_s: float  # from its start until it said that it is ready

    def cpu_s(self) -> float:
        """Seconds of CPU that all its threads took so far."""
        return cpu_s(self.pid)

    def resident_mb(self) -> float:
        """Its resident memory, shared pages included."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / _MB


def cpu_s(pid: int) -> float:
    # utime and stime, the 14th and 15th field of stat; the 2nd, the name, may hold spaces (proc(5)).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(*options: str, checkout: Checkout | None = None) -> Iterator[Process]:
    """`volcast serve` with the shipped models, once it is ready; of the files of a checkout, or else of this folder."""
    read_end, write_end = os.pipe()
    port = free_port()
    env = {key: value for key, value in os.environ.items() if key != _NO_BYTECODE}
    python, folder = (checkout.python, checkout.folder) if checkout else (sys.executable, None)
    if folder is None:  # an older commit may not know this setting
        env["VOLCAST_SERVER__LAME_DUCK_S"] = "0"  # no balancer watches it
    command = [str(python), "-m", "cli.main", "serve", "--port", str(port), "--metrics-port", "0", *options]
    environ = {**env, STATUS_FD: str(write_end)}
    began = perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environ, pass_fds=[write_end], stderr=subprocess.DEVNULL)
    os.close(write_end)
    try:
        with os.fdopen(read_end) as reports:
            first = reports.readline()
            ready_s = perf_counter() - began
            if not first or json.loads(first)["event"] != "ready":
                raise RuntimeError("the inference server did not start; see: volcast serve")
            yield Process(f"127.0.0.1:{port}", process.pid, ready_s)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@contextmanager
def only_model(bundle: Path) -> Iterator[None]:
    """Servers that start meanwhile hold this bundle only, unless an option names a folder of models."""
    with tempfile.TemporaryDirectory() as models:
        shutil.copytree(bundle, Path(models) / bundle.parent.name / bundle.name)
        before = os.environ.get(_MODELS_DIR)
        os.environ[_MODELS_DIR] = models
        try:
            yield
        finally:
            del os.environ[_MODELS_DIR]
            if before is not None:
                os.environ[_MODELS_DIR] = before


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """The same; gives host:port."""
    with server(*options) as running:
        yield running.address
