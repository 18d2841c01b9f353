"""How a process tells its supervisor that it is ready, how it fares and how it ended.

`volcast run` starts each part with the write end of a pipe in VOLCAST_STATUS_FD. A part writes one
JSON object a line: {"event": "ready" | "stats" | "summary", ...}. Started by hand there is no such
variable and reports go nowhere. When the supervisor dies the pipe breaks, and the part stops, so that
nothing outlives a killed supervisor.
"""

from __future__ import annotations

import os
import threading

import msgspec

STATUS_FD = "VOLCAST_STATUS_FD"


class StatusPipe:
    """Reports of one process. `stop` is set when the supervisor has gone."""

    def __init__(self, stop: threading.Event) -> None:
        fd = os.environ.get(STATUS_FD)
        self._fd = int(fd) if fd else None
        self._stop = stop
        self._lock = threading.Lock()
        self.orphaned = False  # the supervisor was there and has gone

    def report(self, event: str, **fields: object) -> None:
        if self._fd is None:
            return
        line = msgspec.json.encode({"event": event, **fields}) + b"\n"
        with self._lock:
            try:
                while line:  # a signal may cut a long write short
                    line = line[os.write(self._fd, line) :]
            except BrokenPipeError:
                self._fd = None
                self.orphaned = True
                self._stop.set()
