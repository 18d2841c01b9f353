"""The server and the gateway as processes of their own, as a user starts them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from common.status import STATUS_FD

READY_S = 30.0


class Process:
    """A running `volcast` command."""

    def __init__(self, popen: subprocess.Popen[bytes], reports: IO[bytes], log: IO[bytes]) -> None:
        self.popen = popen
        self._reports = reports
        self._log = log

    @cached_property
    def ready(self) -> dict[str, Any]:
        """What it said when it was ready; waits for that."""
        return _first_report(self._reports, self._log)

    @property
    def address(self) -> str:
        return f"{self.ready['host']}:{self.ready['port']}"

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines() if line.startswith("{")]

    def lines(self) -> list[str]:
        """Whole lines of its log. By pread: seek would move the offset at which the process writes, too."""
        log = os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0)
        return log[: log.rfind(b"\n") + 1].decode().splitlines()

    def metrics(self) -> dict[str, float]:
        """What Prometheus would read now, by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ready['metrics_port']}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.popen.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def abandon(self) -> int:
        """Does what a supervisor does that is killed: nobody reads the reports any more."""
        self._reports.close()
        return self.popen.wait(15)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 15.0) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(timeout_s)


@contextmanager
def running(command: str, *options: str, cwd: Path | None = None, **environ: str) -> Iterator[Process]:
    """Starts `volcast COMMAND` and waits until it is ready; ends it at the end, if it still runs."""
    with starting(command, *options, cwd=cwd, stderr=None, **environ) as process:
        assert process.ready
        yield process


@contextmanager
def starting(
    command: str, *options: str, cwd: Path | None = None, stderr: int | None = None, **environ: str
) -> Iterator[Process]:
    """As `running`, without waiting. stderr: where its log goes; None: a file that `Process.lines` reads."""
    read_end, write_end = os.pipe()
    # A server that nobody watches has no reason to stay for those who do.
    quick = {"VOLCAST_LOG__FORMAT": "json", "VOLCAST_SERVER__LAME_DUCK_S": "0", "VOLCAST_GATEWAY__LAME_DUCK_S": "0"}
    env = {**os.environ, STATUS_FD: str(write_end), **quick, **environ}
    with tempfile.TemporaryFile() as log, os.fdopen(read_end, "rb", buffering=0) as reports:
        popen = subprocess.Popen(
            [sys.executable, "-m", "cli.main", command, *options],
            env=env,
            pass_fds=[write_end],
            stderr=log if stderr is None else stderr,
            cwd=cwd,
        )
        os.close(write_end)
        try:
            yield Process(popen, reports, log)
        finally:
            if popen.poll() is None:
                popen.kill()
                popen.wait()


def _first_report(reports: IO[bytes], log: IO[bytes]) -> dict[str, Any]:
    readable, _, _ = select.select([reports], [], [], READY_S)
    line = reports.readline() if readable else b""
    if not line:
        log.seek(0)
        raise AssertionError(f"not ready: {log.read().decode()}")
    report: dict[str, Any] = json.loads(line)
    assert report["event"] == "ready"
    return report


def serve(models: Path, **environ: str) -> Any:
    options = ("--port", "0", "--metrics-port", "0", "--models-dir", str(models))
    return running("serve", *options, cwd=None, **environ)


def run_to_end(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A `volcast` command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
