"""How a process reports to its supervisor that it is ready, what it counts, and how it ended.

`volcast run` and the supervisor of `volcast serve` start each process with the write end of a pipe in
VOLCAST_STATUS_FD. The process writes one JSON object a line: {"event": "ready" | "stats" | "summary", ...}.
A process that a user starts has no such variable, and drops its reports. If the supervisor dies, the pipe
breaks and the process stops, so that no process outlives a killed supervisor.

A supervisor may also stop reading (a paused terminal, SIGSTOP). Then "stats" are dropped, so that no work
waits for a full pipe; each later report replaces them. All other reports wait up to REPORT_TIMEOUT_S.
"""

from __future__ import annotations

import os
import select
import threading
from time import monotonic

import msgspec

STATUS_FD = "VOLCAST_STATUS_FD"
STATS = "stats"
REPORT_TIMEOUT_S = 5.0


class StatusPipe:
    """Reports of one process. `stop` is set when the supervisor has gone."""

    def __init__(self, stop: threading.Event) -> None:
        fd = os.environ.get(STATUS_FD)
        self._fd = int(fd) if fd else None
        if self._fd is not None:
            os.set_blocking(self._fd, False)
        self._stop = stop
        self._lock = threading.Lock()
        self._unwritten = b""  # the rest of a line that the pipe took only in part
        self.orphaned = False  # the supervisor was there and has gone

    def report(self, event: str, **fields: object) -> None:
        if self._fd is None:
            return
        with self._lock:
            self._write()
            if self._unwritten and event == STATS:
                return
            self._unwritten += msgspec.json.encode({"event": event, **fields}) + b"\n"
            self._write()
            if event != STATS:
                self._wait()

    def _wait(self) -> None:
        """Until the pipe has taken everything, or REPORT_TIMEOUT_S is over."""
        ends_s = monotonic() + REPORT_TIMEOUT_S
        while self._unwritten and self._fd is not None and monotonic() < ends_s:
            select.select([], [self._fd], [], ends_s - monotonic())
            self._write()

    def _write(self) -> None:
        """As much as the pipe takes without waiting."""
        try:
            while self._unwritten and self._fd is not None:
                self._unwritten = self._unwritten[os.write(self._fd, self._unwritten) :]
        except BlockingIOError:
            pass
        except OSError:  # EPIPE: nobody reads any more
            self._fd = None
            self.orphaned = True
            self._stop.set()
