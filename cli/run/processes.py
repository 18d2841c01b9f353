"""The processes of a run: started, read through their status pipes, ended in order."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from common.errors import UnavailableError
from common.progress import Progress
from common.status import STATUS_FD

# A process that was asked to end and does nothing for so long hangs: it is killed.
MAX_IDLE_S = 10.0
WAITING_EVERY_S = 5.0  # how often the user reads which process is still ending
MAX_LINE_CHARS = 500


@dataclass
class Process:
    """One process of the run, and its last reports."""

    name: str
    arguments: Sequence[str]
    log: Path
    ready: dict[str, Any] | None = None
    stats: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] | None = None
    popen: subprocess.Popen[bytes] | None = None
    reports: int = 0
    _unread: bytes = b""

    @property
    def state(self) -> str:
        if self.popen is None:
            return "waiting"
        if self.popen.poll() is not None:
            return "ended" if self.popen.returncode == 0 else f"failed ({self.popen.returncode})"
        return "ready" if self.ready is not None else "starting"

    @property
    def alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def feed_status(self, data: bytes) -> None:
        """Reads what the process has written to its status pipe: NDJSON, cut anywhere."""
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            report = msgspec.json.decode(line)
            event = report.pop("event")
            self.reports += 1
            if event == "ready":
                self.ready = report
            else:
                self.stats = report
                if event == "summary":
                    self.summary = report

    def failure_line(self) -> str:
        """Why it failed: its last error line without the prefix, or how it ended."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        errors = [line for line in lines if line.startswith("volcast: ")]
        code = self.popen.poll() if self.popen is not None else None
        if errors:
            return errors[-1].removeprefix("volcast: ")[:MAX_LINE_CHARS]
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return "ended without a word" if code is None else f"ended with exit code {code}"


def _ignore(text: str) -> None:
    pass


class ProcessGroup:
    """All processes of a run. As a context manager it ends those that still run, last started first.

    hurry: once it is set, processes that are asked to end are killed at once. tell: shows a line to the user.
    """

    def __init__(
        self,
        log_dir: Path,
        config_file: Path | None,
        hurry: threading.Event | None = None,
        tell: Callable[[str], None] = _ignore,
    ) -> None:
        self._log_dir = log_dir
        self._config = ["--config", str(config_file)] if config_file else []
        self._selector = selectors.DefaultSelector()
        self._hurry = hurry or threading.Event()
        self.tell = tell
        self.all: list[Process] = []

    def start(self, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> Process:
        process = Process(name, arguments, self._log_dir / f"{name}.log")
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        # A session of its own: a terminal's Ctrl-C reaches the supervisor alone, which ends processes in order.
        try:
            with process.log.open("wb") as log:
                process.popen = subprocess.Popen(
                    [sys.executable, "-m", "cli.main", *arguments, *self._config],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **environ, STATUS_FD: str(write_end)},
                    pass_fds=[write_end],
                    start_new_session=True,
                )
        finally:
            os.close(write_end)
        self._register(process, read_end)
        return process

    def _register(self, process: Process, read_end: int) -> None:
        self._selector.register(read_end, selectors.EVENT_READ, process)
        self.all.append(process)

    def listen(self, timeout_s: float) -> None:
        """Reads reports, waiting up to timeout_s for the first."""
        for key, _ in self._selector.select(timeout_s):
            data = os.read(key.fd, 65_536)
            if data:
                key.data.feed_status(data)
            else:
                self._selector.unregister(key.fd)
                os.close(key.fd)

    def require_alive(self, *, may_end: Sequence[Process | None] = ()) -> None:
        """Raises UnavailableError, with its failure line, if a process has ended that should run.

        may_end: processes that may end by themselves, if they end well.
        """
        for process in self.all:
            # Polled once: the process may end between two polls.
            code = process.popen.poll() if process.popen is not None else None
            if code is None or (code == 0 and process in may_end):
                continue
            raise UnavailableError(f"{process.name}: {process.failure_line()}  (log: {process.log})")

    def stop(self, process: Process) -> None:
        """SIGTERM; SIGKILL if the process then does nothing for MAX_IDLE_S. Reads its last reports."""
        if process.popen is None:
            return
        if process.alive:
            process.popen.send_signal(signal.SIGTERM)
        progress = Progress(process.popen.pid, time.monotonic())
        tell_s = time.monotonic() + WAITING_EVERY_S
        while process.alive:
            self.listen(0.02)
            now_s = time.monotonic()
            if self._hurry.is_set() or progress.idle_s(process.reports, now_s) > MAX_IDLE_S:
                process.popen.kill()
                process.popen.wait()
            elif now_s >= tell_s:
                tell_s = now_s + WAITING_EVERY_S
                self.tell(f"waiting for {process.name} to end")
        self.listen(0)

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.all):
            self.stop(process)
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()
