"""Processes forked from a process that has loaded the program and compiled the kernels.

A course starts a hundred workers. Loading and compiling takes 5 s of CPU each time, and a fork 0.1 s. Forked processes
are killed and stopped as any other process is. Recovery times with them do not include the loading.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from cli.main import main as volcast
from cli.run.processes import Process, ProcessGroup
from common.status import STATUS_FD

COMMANDS = ("ingest", "replay", "worker")
LOADED = tuple(f"pipeline.commands.{command}" for command in COMMANDS)
MAX_REQUEST_BYTES = 65_536
START_S = 120.0


class ForkedPopen:
    """The part of subprocess.Popen that a ProcessGroup uses. The exit code is unknown: 0 once the process is gone."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._descriptor = os.pidfd_open(pid)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._descriptor], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._descriptor], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self._end()
        return 0

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _end(self) -> None:
        self.returncode = 0
        os.close(self._descriptor)


class ForkingGroup(ProcessGroup):
    """A ProcessGroup that forks the commands of COMMANDS."""

    def __init__(self, log_dir: Path) -> None:
        super().__init__(log_dir, None)
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "benchmarks.faults.forks", str(theirs.fileno())]
        self._origin = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()
        self._requests.settimeout(START_S)
        self._requests.recv(1)

    def start(self, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> Process:
        if arguments[0] not in COMMANDS:
            return super().start(name, arguments, environ)
        process = Process(name, arguments, self._log_dir / f"{name}.log")
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        request = {"arguments": list(arguments), "environ": dict(environ), "log": str(process.log)}
        try:
            socket.send_fds(self._requests, [json.dumps(request).encode()], [write_end])
        finally:
            os.close(write_end)
        popen: Any = ForkedPopen(int(self._requests.recv(20)))
        process.popen = popen
        self._register(process, read_end)
        return process

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._requests.close()  # the origin ends at that
        self._origin.wait(10)


def _serve(requests: socket.socket) -> None:
    """Forks a process per request until the other end closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes ended children at once
    for name in LOADED:
        importlib.import_module(name)
    _compile()
    requests.send(b"+")
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 1)
        if not data:
            return
        pid = os.fork()
        if pid == 0:
            requests.close()
            _become(json.loads(data), descriptors[0])
        os.close(descriptors[0])
        requests.send(str(pid).encode())


def _compile() -> None:
    from common.schema import CORE_1
    from pipeline.features.engine import FeatureEngine

    FeatureEngine(CORE_1).compile()


def _become(request: dict[str, Any], status: int) -> NoReturn:
    """Runs a command in this child."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ |= {**request["environ"], STATUS_FD: str(status)}
        sys.argv = ["volcast", *request["arguments"]]
        volcast()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
