"""The process of a worker, for the supervisor."""

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
    """A process that reports through its status pipe. The end of the pipe means that the process has ended."""

    def __init__(self, number: int, process: subprocess.Popen[bytes], reader: asyncio.StreamReader) -> None:
        self.number = number
        self.ready: dict[str, Any] | None = None
        self.ended = False
        self.totals = dict.fromkeys(TOTALS, 0)
        self.reason = ""  # the reason for its end and its exit code, as the worker reported them
        self.exit_code = 1
        self._process = process
        self._reader = reader
        self._started_s = time.monotonic()
        self._reload_when_ready = False

    @classmethod
    async def start(cls, job: WorkerJob) -> Self:
        """Starts a process by exec, so that it inherits no threads and sockets of this process."""
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
        with suppress(BrokenPipeError), process.stdin:  # a worker that has already ended is handled by `reports`
            process.stdin.write(msgspec.json.encode(job))
        return cls(job.worker, process, reader)

    async def reports(self) -> AsyncIterator[str]:
        """Yields the event of each report after storing the report; ends when the process has ended."""
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
        """Sends SIGHUP; if the worker is not ready yet, it is sent when the worker is ready.

        A worker that is starting may have read the old files already.
        """
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
        # A terminal's Ctrl-C then reaches the supervisor only. Otherwise workers would get two signals.
        start_new_session=True,
    )
