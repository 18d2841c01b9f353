"""Standard output and standard error of a program, made safe.

Standard output: if the reader has left (`| head`), the command ends without an error; any other failure to
write is an OutputError. Standard error: writing never raises, and a reader that does not read holds nothing
up. A thread of its own writes what is queued; lines that find the queue full, or that cannot be written, are
dropped and counted.
"""

from __future__ import annotations

import atexit
import io
import os
import queue
import select
import sys
import threading
from typing import TYPE_CHECKING

from common.errors import OutputError

if TYPE_CHECKING:
    from typing_extensions import Buffer

STDIN, STDOUT, STDERR = 0, 1, 2
MAX_QUEUED_BYTES = 1 << 20  # some 5,000 log lines
# A line is normally out before the program goes on, so that a crash loses no line and the log of one process is
# not older than what others see of it. The first line that is not out in time ends that until the thread has
# caught up: a reader that stops reading costs this long, once.
WRITE_WAIT_S = 0.01
EXIT_FLUSH_S = 2.0  # how long the end of a program waits for a reader of standard error


class ReaderGoneError(Exception):
    """The reader of standard output has left. No failure: it has read what it wanted."""


class BackgroundWriter:
    """Writes to a file descriptor on a thread of its own, which starts with the first write.

    `write` never raises and waits for WRITE_WAIT_S at most. It may be called from any thread and from a signal
    handler.
    """

    def __init__(self, fd: int, max_bytes: int = MAX_QUEUED_BYTES) -> None:
        self._fd = fd
        self._max_bytes = max_bytes
        self.lost = 0  # lines that were dropped
        self._reset()

    def _reset(self) -> None:
        self._lines: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        self._queued_bytes = 0
        self._torn = False
        self._behind = False  # a line was not out in time, and the queue has not been empty since
        # Reentrant, because a signal handler may write while its own thread is inside `write`.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Queues one line, which is written by one call of write(2)."""
        with self._lock:
            if self._queued_bytes + len(line) > self._max_bytes and self._queued_bytes:
                self.lost += 1
                return
            self._queued_bytes += len(line)
            self._lines.put(line)
            self._start()
        if not self._behind and not self.flush(WRITE_WAIT_S):
            self._behind = True

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything queued so far is written or dropped. Returns False if the time is over first."""
        if self._thread is None:
            return True
        written = threading.Event()
        self._lines.put(written)
        return written.wait(timeout_s)

    def _start(self) -> None:
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="standard-error", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is shutting down, or the system has no thread left
            self._thread = None
            while not self._lines.empty():
                self._handle(self._lines.get())

    def _run(self) -> None:
        while True:
            self._handle(self._lines.get())
            if self._lines.empty():
                self._behind = False

    def _handle(self, line: bytes | threading.Event) -> None:
        if isinstance(line, threading.Event):
            line.set()
            return
        written = 0
        # A line after a torn line starts on a line of its own.
        data = b"\n" + line if self._torn else line
        try:
            while written < len(data):
                written += _write(self._fd, data[written:])
            self._torn = False
        except (OSError, ValueError):
            self._torn = self._torn or written > 0
            with self._lock:
                self.lost += 1
        with self._lock:
            self._queued_bytes -= len(line)

    def restart_after_fork(self) -> None:
        """In a forked child, which has none of the parent's threads. The parent writes what it has queued."""
        self._reset()


def _write(fd: int, data: Buffer) -> int:
    """os.write for a descriptor that another program may have set to non-blocking."""
    while True:
        try:
            return os.write(fd, data)
        except BlockingIOError:
            select.select([], [fd], [])


class _RawOutput(io.RawIOBase):
    """Standard output as bytes. After the first failure all that follows is discarded."""

    def __init__(self) -> None:
        self._failed = False

    def write(self, data: Buffer) -> int:
        size = memoryview(data).nbytes
        if self._failed:
            return size
        try:
            return _write(STDOUT, data)
        except BrokenPipeError:
            self._failed = True
            raise ReaderGoneError from None
        except OSError as error:
            self._failed = True
            raise OutputError(f"standard output cannot be written: {error.strerror}") from None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return STDOUT

    def isatty(self) -> bool:
        return os.isatty(STDOUT)


class _RawError(io.RawIOBase):
    """Standard error as bytes, written in the background."""

    def __init__(self, writer: BackgroundWriter) -> None:
        self._writer = writer

    def write(self, data: Buffer) -> int:
        line = bytes(data)
        self._writer.write(line)
        return len(line)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return STDERR

    def isatty(self) -> bool:
        return os.isatty(STDERR)


_error_writer = BackgroundWriter(STDERR)
_unwritable = 0  # lines dropped by count_lost_line


def lost_lines() -> int:
    """Lines of standard error, log lines among them, that this process has dropped."""
    return _error_writer.lost + _unwritable


def flush_standard_error(timeout_s: float) -> bool:
    """Waits until everything that was printed to standard error is written. False: the time was over first."""
    return _error_writer.flush(timeout_s)


def count_lost_line() -> None:
    global _unwritable
    _unwritable += 1


def protect_standard_streams() -> None:
    """Replaces sys.stdout and sys.stderr. For the main function of a program, before it prints or opens anything."""
    for fd in (STDIN, STDOUT, STDERR):
        _open_if_closed(fd)
    if isinstance(getattr(sys.stderr, "buffer", None), _RawError):
        return
    encoding = (sys.stdout.encoding if sys.stdout else None) or "utf-8"
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_RawOutput()), encoding=encoding, errors="backslashreplace", line_buffering=os.isatty(STDOUT)
    )
    # write_through: each write is one line of the queue.
    raw_error: io.RawIOBase = _RawError(_error_writer)
    sys.stderr = io.TextIOWrapper(raw_error, encoding="utf-8", errors="backslashreplace", write_through=True)
    atexit.register(flush_standard_error, EXIT_FLUSH_S)
    os.register_at_fork(after_in_child=_error_writer.restart_after_fork)


def _open_if_closed(fd: int) -> None:
    """Opens the null device in place of a closed standard stream.

    The next file or socket would get its number otherwise, and what is printed would be written into it.
    """
    try:
        os.fstat(fd)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != fd:
            os.dup2(null, fd)
            os.close(null)


def reader_gone() -> bool:
    """Whether standard output is a pipe whose reader has left. For commands that print only at their end."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
