"""A socket to an inference server with its HTTP/2 connection. A single thread uses it at a time, and does its I/O.

Opening (names, proxy, TLS) may take long, so a separate thread does it. Once the socket is open, a call costs
its thread two system calls and a wait, without any hand-over to another thread.
"""

from __future__ import annotations

import select
import socket
import threading
import weakref
from contextlib import suppress
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, cast

from clients.http2 import ClientCall, ClientConnection, Fields
from clients.opening import Route, line_of, open_socket
from common.http2 import frames
from common.http2.frames import ProtocolError

if TYPE_CHECKING:
    import ssl

READ_BYTES = 256 * 1024


class _Opening:
    """The result of the opening thread."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.socket: socket.socket | None = None
        self.failure = ""
        self._lock = threading.Lock()
        self._closed = False

    def run(self, route: Route) -> None:
        try:
            opened = open_socket(route)
            with self._lock:
                if self._closed:
                    opened.close()
                else:
                    self.socket = opened
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
            self.failure = line_of(error)
        finally:
            self.done.set()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self.socket is not None:
                self.socket.close()


class Link:
    def __init__(self, route: Route) -> None:
        self._http2 = ClientConnection()
        self._opening: _Opening | None = _Opening()
        self._close = weakref.finalize(self, self._opening.close)
        self._socket: socket.socket | None = None
        self._tls = False
        self._unsent = b""
        self._poll = select.poll()
        threading.Thread(target=self._opening.run, args=(route,), name="volcast-connect", daemon=True).start()

    @property
    def is_opening(self) -> bool:
        return self._opening is not None

    def open(self, fields: Fields) -> ClientCall:
        return self._http2.open(fields)

    def send(self, call: ClientCall, message: bytes, *, end: bool = False) -> None:
        """Queues a message and writes as much as the server and the kernel take now."""
        self._http2.send(call, message, end=end)
        if self._opening is not None:
            self._finish_opening(0.0)
        self._write()

    def cancel(self, call: ClientCall) -> None:
        self._http2.cancel(call)
        self._write()

    def pump(self, timeout_s: float) -> None:
        """Writes what is queued, then reads, if bytes arrive within timeout_s. May return earlier.

        If the connection is lost, all calls have ended afterwards.
        """
        if self._opening is not None:
            self._finish_opening(timeout_s)
        self._write()
        if self._socket is None:
            return
        if timeout_s <= 0 or (self._tls and cast("ssl.SSLSocket", self._socket).pending()) or self._wait(timeout_s):
            self._read()

    def refresh(self) -> bool:
        """Reads bytes that have arrived meanwhile, such as the end of the connection. Whether calls can be opened."""
        if not self._http2.closing:
            self.pump(0.0)
        return not self._http2.closing

    def close(self) -> None:
        self._fail("closed by the caller")

    def _finish_opening(self, timeout_s: float) -> None:
        opening = self._opening
        if opening is None or not opening.done.wait(timeout_s):
            return
        self._opening = None
        if opening.socket is None:
            self._fail(opening.failure)
            return
        self._socket = opening.socket
        self._tls = hasattr(opening.socket, "pending")
        self._poll.register(self._socket, select.POLLIN)

    def _write(self) -> None:
        if self._socket is None:
            return
        output = self._http2.output()
        if self._unsent:
            output = self._unsent + output
        if not output:
            return
        sent, waiting = 0, bool(self._unsent)
        try:
            sent = self._socket.send(output)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            if not _would_block(error):
                self._lost(error)
                return
        self._unsent = output[sent:]
        if waiting != bool(self._unsent):
            self._poll.modify(self._socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))

    def _wait(self, timeout_s: float) -> bool:
        """Whether bytes have arrived. Writes meanwhile, if the kernel's buffer was full."""
        deadline_s = monotonic() + timeout_s
        while True:
            events = self._poll.poll(ceil(max(0.0, deadline_s - monotonic()) * 1e3))
            if not events:
                return False
            if events[0][1] & ~select.POLLOUT:
                return True
            self._write()

    def _read(self) -> None:
        while self._socket is not None:
            try:
                data = self._socket.recv(READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if not _would_block(error):
                    self._lost(error)
                return
            if not data:
                self._fail("the server closed the connection")
                return
            try:
                self._http2.receive(data)
            except ProtocolError as error:
                self._violated(error)
                return
            self._write()
            if len(data) < READ_BYTES and not self._tls:
                return

    def _violated(self, error: ProtocolError) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.send(frames.goaway(0, error.code))
        self._fail(f"the server breaks HTTP/2: {error.reason}")

    def _lost(self, error: OSError) -> None:
        self._fail(f"the connection broke: {line_of(error)}")

    def _fail(self, message: str) -> None:
        self._http2.fail(message)
        self._socket = None
        self._opening = None
        self._close()


def _would_block(error: OSError) -> bool:
    """Whether TLS waits for the other direction of the socket."""
    return type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")
