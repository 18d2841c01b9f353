"""Servers under measurement, as processes of their own on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.checkout import Checkout
from common.status import STATUS_FD

_MB = 1e6
# Where it is set nothing that was compiled is kept, and a start is mostly the compiler's.
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
def serving(*options: str) -> Iterator[str]:
    """The same; gives host:port."""
    with server(*options) as running:
        yield running.address
