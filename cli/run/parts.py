"""The parts of a run as real processes: started, heard through their status pipes, ended in order."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from common.errors import UnavailableError
from common.status import STATUS_FD

STOP_TIMEOUT_S = 10.0


@dataclass
class Part:
    """One process of the run, and the last it said of itself."""

    name: str
    arguments: Sequence[str]
    log: Path
    ready: dict[str, Any] | None = None
    stats: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] | None = None
    process: subprocess.Popen[bytes] | None = None
    _unread: bytes = b""

    @property
    def state(self) -> str:
        if self.process is None:
            return "waiting"
        if self.process.poll() is not None:
            return "ended" if self.process.returncode == 0 else f"failed ({self.process.returncode})"
        return "ready" if self.ready is not None else "starting"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def hear(self, data: bytes) -> None:
        """Takes what came through the pipe: NDJSON, maybe cut anywhere."""
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            message = msgspec.json.decode(line)
            event = message.pop("event")
            if event == "ready":
                self.ready = message
            else:
                self.stats = message
                if event == "summary":
                    self.summary = message

    def last_words(self) -> str:
        """Why it failed: the line it ended with, without its prefix, or how it ended."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        said = [line for line in lines if line.startswith("volcast: ")]
        code = self.process.poll() if self.process is not None else None
        if said:
            return said[-1].removeprefix("volcast: ")[:500]
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return "ended without a word" if code is None else f"ended with exit code {code}"


class Parts:
    """All parts of a run. As a context manager it ends whatever still runs, last started first."""

    def __init__(self, log_dir: Path, config_file: Path | None) -> None:
        self._log_dir = log_dir
        self._config = ["--config", str(config_file)] if config_file else []
        self._selector = selectors.DefaultSelector()
        self.all: list[Part] = []

    def start(self, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> Part:
        part = Part(name, arguments, self._log_dir / f"{name}.log")
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        # A session of its own: a terminal's Ctrl-C reaches the supervisor alone, which ends parts in order.
        try:
            with part.log.open("wb") as log:
                part.process = subprocess.Popen(
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
        self._selector.register(read_end, selectors.EVENT_READ, part)
        self.all.append(part)
        return part

    def listen(self, timeout_s: float) -> None:
        """Takes what the parts have to say, waiting up to timeout_s for the first word."""
        for key, _ in self._selector.select(timeout_s):
            data = os.read(key.fd, 65_536)
            if data:
                key.data.hear(data)
            else:
                self._selector.unregister(key.fd)
                os.close(key.fd)

    def require_alive(self, *, may_end: Sequence[Part | None] = ()) -> None:
        """Raises UnavailableError, with its own last words, where a part has ended that should not have.

        may_end: parts that may end by themselves, if they end well.
        """
        for part in self.all:
            # One look at each: a part may end between two.
            code = part.process.poll() if part.process is not None else None
            if code is None or (code == 0 and part in may_end):
                continue
            raise UnavailableError(f"{part.name}: {part.last_words()}  (log: {part.log})")

    def stop(self, part: Part, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """SIGTERM, and SIGKILL where that is not enough; hears the last it says."""
        if part.alive and part.process is not None:
            part.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while part.alive and time.monotonic() < deadline:
            self.listen(0.02)
        if part.alive and part.process is not None:
            part.process.kill()
            part.process.wait()
        self.listen(0)

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        for part in reversed(self.all):
            self.stop(part)
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()
