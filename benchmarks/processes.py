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

from common.status import STATUS_FD


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """`volcast serve` with the shipped models; gives host:port once it is ready."""
    read_end, write_end = os.pipe()
    port = free_port()
    command = [sys.executable, "-m", "cli.main", "serve", "--port", str(port), "--metrics-port", "0", *options]
    process = subprocess.Popen(
        command, env={**os.environ, STATUS_FD: str(write_end)}, pass_fds=[write_end], stderr=subprocess.DEVNULL
    )
    os.close(write_end)
    try:
        with os.fdopen(read_end) as reports:
            first = reports.readline()
            if not first or json.loads(first)["event"] != "ready":
                raise RuntimeError("the inference server did not start; see: volcast serve")
            yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
