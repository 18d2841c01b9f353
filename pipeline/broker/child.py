"""A broker as a child process: it ends with its parent, and is stopped by a signal."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Self

_PR_SET_PDEATHSIG = 1  # prctl(2)


class ChildProcess(ABC):
    """A process for as long as the context lasts.

    On Linux it ends with the thread that started it, killed or not: start it from the main thread.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> None:
        """Returns when the process answers. Raises UnavailableError if it does not start."""

    @abstractmethod
    def stop(self) -> None:
        """Ends the process, if it runs."""

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def _spawn(
        self, command: Sequence[str], log: IO[bytes], orphan_signal: signal.Signals, pass_fds: Sequence[int] = ()
    ) -> None:
        """orphan_signal: what the kernel sends to the process once its parent is gone."""

        def end_with_parent() -> None:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, orphan_signal)

        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A terminal's Ctrl-C reaches the parent, which stops its brokers last.
            start_new_session=True,
            pass_fds=pass_fds,
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )

    def _end(self, number: signal.Signals, timeout_s: float) -> None:
        """Sends a signal; SIGKILL if the process does not end in time."""
        if self._process is None:
            return
        self._process.send_signal(number)  # does nothing if it has ended already
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
