"""The status pipe: a process reports readiness, statistics and a summary to its supervisor.

`volcast run` starts each part with the write end of a pipe in VOLCAST_STATUS_FD. The part writes a JSON object
per line: {"event": "ready" | "stats" | "summary", ...}. A process that is started by hand has no such variable,
and its reports are dropped. If the supervisor dies, the pipe breaks and the part stops, so no part outlives a
killed supervisor.
"""

from __future__ import annotations

import os
import threading

import msgspec

STATUS_FD = "VOLCAST_STATUS_FD"


class StatusPipe:
    """Writes the reports of this process. `stop` is set if the supervisor has ended."""

    def __init__(self, stop: threading.Event) -> None:
        fd = os.environ.get(STATUS_FD)
        self._fd = int(fd) if fd else None
        self._stop = stop
        self._lock = threading.Lock()
        self.orphaned = False  # the supervisor has ended

    def report(self, event: str, **fields: object) -> None:
        if self._fd is None:
            return
        line = msgspec.json.encode({"event": event, **fields}) + b"\n"
        with self._lock:
            try:
                while line:  # a signal may interrupt a long write
                    line = line[os.write(self._fd, line) :]
            except BrokenPipeError:
                self._fd = None
                self.orphaned = True
                self._stop.set()
