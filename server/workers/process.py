"""A worker's process as the supervisor sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Self

import msgspec

from common.status import STATUS_FD
from server.workers.job import WorkerJob

TOTALS = ("requests", "failed", "rows")


class WorkerProcess:
    """One process, heard through its status pipe: a pipe that ends is a process that has ended."""

    def __init__(self, number: int, process: subprocess.Popen[bytes], reader: asyncio.StreamReader) -> None:
        self.number = number
        self.ready: dict[str, Any] | None = None
        self.ended = False
        self.totals = dict.fromkeys(TOTALS, 0)
        self.reason = ""  # why it ended, in its own words, and the exit code that goes with it
        self.exit_code = 1
        self._process = process
        self._reader = reader
        self._started_s = time.monotonic()
        self._reload_when_ready = False

    @classmethod
    async def start(cls, job: WorkerJob) -> Self:
        """A fresh process by exec: nothing of this one's threads and sockets is in it."""
        read_end, write_end = os.pipe()
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
        )
        try:
            process = _spawn(write_end)
        finally:
            os.close(write_end)
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:  # one that has ended already says why by its end
            process.stdin.write(msgspec.json.encode(job))
        return cls(job.worker, process, reader)

    async def reports(self) -> AsyncIterator[str]:
        """The event of each report, once it is taken; over when the process has ended."""
        async for line in self._reader:
            report: dict[str, Any] = msgspec.json.decode(line)
            event = report.pop("event")
            if event == "ready":
                self.ready = report
                if self._reload_when_ready:
                    self.send(signal.SIGHUP)
            elif event == "failed":
                self.reason, self.exit_code = report["reason"], report["exit_code"]
            else:
                self.totals = report
            yield event
        self._process.wait()
        self.ended = True

    def reload(self) -> None:
        """At once, or once it is ready: until then it may have read the old files, and SIGHUP would end it."""
        if self.ready is None:
            self._reload_when_ready = True
        else:
            self.send(signal.SIGHUP)

    def send(self, number: int) -> None:
        if not self.ended:
            self._process.send_signal(number)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lived_s(self) -> float:
        return time.monotonic() - self._started_s

    def failure_line(self) -> str:
        code = self._process.returncode
        if self.reason or code is None:
            return self.reason
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _spawn(status_fd: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "server.workers.worker"],
        stdin=subprocess.PIPE,
        env={**os.environ, STATUS_FD: str(status_fd)},
        pass_fds=[status_fd],
        # A terminal's Ctrl-C reaches the supervisor alone; from both it would be a second signal.
        start_new_session=True,
    )
