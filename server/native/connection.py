"""One connection's socket on the event loop."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from typing import Any, Protocol

from common.http2.frames import ErrorCode, ProtocolError
from server.http2.connection import Connection
from server.http2.stream import Stream
from server.native.serving import Serving
from server.runtime.metrics import CODE_NAMES

MAX_TIMER_S = 3600.0  # timers of the event loop accept no timeout of years, which callers may send
# How long a connection is read after its write side is closed, so that the peer receives the last bytes.
LINGER_S = 1.0
MAX_READ_WORK = 2048  # units of work per read; above it, other connections are read first
MAX_UNSENT_BYTES = 1024 * 1024  # bytes outside the kernel's buffer; above it the connection is not read


@dataclass(frozen=True)
class SocketLimits:
    """partial_s: limits the time from the first to the last byte of a preface, a frame or a header block (slow loris).
    If it arrives faster than MIN_BYTES_PER_S, the time starts again.

    spin_us: how long the loop polls for the next call before it sleeps, while calls are arriving.
    """

    spin_us: int = 250
    max_connections: int = 16_384
    partial_s: float = 10.0
    keepalive_s: float = 60.0
    keepalive_timeout_s: float = 20.0


class StreamCall(Protocol):
    """A streaming call, as `Stream.call` holds it."""

    def on_data(self, *, alone: bool) -> None:
        """Called if messages or the end of the peer's side have arrived, or if output can be sent again.

        alone: the event is the only one of its read.
        """

    def cancel(self) -> None:
        """Called if the peer has cancelled the call, or the connection is lost."""

    @property
    def responses_due(self) -> bool:
        """Whether whole messages of the peer have no response yet."""


class Handler(Protocol):
    """Handles the calls of connections."""

    def accept(self, connection: ServerConnection, now_ns: int) -> None:
        """Handles the calls and events that a read added to `connection.h2`."""


class ServerConnection(asyncio.Protocol):
    """Moves bytes between a socket and `server.http2`, and sends outcomes of calls."""

    def __init__(
        self, serving: Serving, handler: Handler, h2: Connection, limits: SocketLimits, peers: set[ServerConnection]
    ) -> None:
        """peers: the open connections of the front; this connection adds and removes itself."""
        self.serving = serving
        self.h2 = h2
        self.paused = False  # the kernel's send buffer is full: nothing is read until it has room
        self.resets_before_read = 0  # RST_STREAM frames that the peer had sent before the last read
        self._handler = handler
        self._limits = limits
        self._peers = peers
        self._transport: Any = None
        self._lingering: asyncio.TimerHandle | None = None  # set: the write side is closed
        self._fd = -1  # of a plaintext socket
        self._is_yielding = False  # reads nothing in this turn of the loop
        self._fault: ProtocolError | None = None  # of the peer: the connection ends once whole calls are answered
        self._fault_ns = 0
        self._deadline_ns: int | None = None  # time of the timer
        self._deadline_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            _keep_alive(sock, self._limits)
            if self._transport.get_extra_info("sslcontext") is None:
                self._fd = sock.fileno()
        if len(self._peers) >= self._limits.max_connections:
            self._transport.abort()
            return
        self.h2.restart_clock(self.serving.now_ns())
        self._peers.add(self)
        if self.serving.state.draining:
            self.h2.go_away()
        # The server's SETTINGS wait for the peer's first bytes: a peer with HTTP/1 gets a response in HTTP/1 instead.

    def data_received(self, data: bytes) -> None:
        if self._fault is not None or self._lingering is not None:
            return  # the connection is ending: later bytes are discarded
        serving, h2 = self.serving, self.h2
        now_ns = serving.now_ns()
        serving.spinner.on_read(len(data), now_ns)
        self.resets_before_read = h2.resets
        try:
            h2.receive(data, now_ns)
        except ProtocolError as error:
            self._break(error)
        if h2.work > MAX_READ_WORK:
            self._yield()
        if h2.calls or h2.blocks or h2.events:
            self._handler.accept(self, now_ns)
        if h2.next_deadline_ns is not None:
            self._watch_deadline(now_ns)
        self.flush()

    def _yield(self) -> None:
        """Lets other connections read: otherwise the loop reads this connection while it has bytes."""
        if not self._is_yielding and not self._transport.is_closing():
            self._is_yielding = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        self._is_yielding = False
        if self._transport.is_closing() or self._fault is not None or self.paused:
            return
        if self.h2.has_more:
            self.data_received(b"")
        if not self._is_yielding and self._fault is None:
            self._transport.resume_reading()

    def _watch_deadline(self, now_ns: int) -> None:
        """Sets the timer for calls whose message is not whole."""
        next_ns = self.h2.next_deadline_ns
        if next_ns is None or (self._deadline_ns is not None and self._deadline_ns <= next_ns):
            return
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._deadline_ns = next_ns
        delay_s = min(max(0, next_ns - now_ns) * 1e-9, MAX_TIMER_S)
        self._deadline_timer = asyncio.get_running_loop().call_later(delay_s, self._expire)

    def _expire(self) -> None:
        self._deadline_ns = self._deadline_timer = None
        now_ns = self.serving.now_ns()
        self.h2.expire(now_ns)
        self._handler.accept(self, now_ns)
        self._watch_deadline(now_ns)
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._fd = -1
        self._peers.discard(self)
        self.serving.inflate_turns.discard(self)
        for timer in (self._deadline_timer, self._lingering):
            if timer is not None:
                timer.cancel()
        for stream in self.h2.abandon():
            if stream.call is not None:
                stream.call.cancel()

    def pause_writing(self) -> None:
        self.paused = True
        self._transport.pause_reading()
        self._set_user_timeout(0)  # otherwise the kernel would end the connection of a slow reader

    def resume_writing(self) -> None:
        self.paused = False
        self.h2.excuse(self.serving.now_ns())
        if self.h2.has_more:
            self._yield()
        elif (self._fault is None or self._lingering is not None) and not self._is_yielding:
            self._transport.resume_reading()
        self._set_user_timeout(self._limits.keepalive_timeout_s)
        for stream in list(self.h2.streams.values()):
            if stream.call is not None:
                stream.call.on_data(alone=False)
        self.flush()

    def _set_user_timeout(self, timeout_s: float) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            _set_user_timeout(sock, timeout_s)

    def fail_call(self, stream_id: int, name: str, error: Exception, arrived_ns: int) -> None:
        """Ends a unary call with the status of an error, if the call is still open."""
        stream = self.h2.promote(stream_id)
        if stream is not None:
            stream.arrived_ns = arrived_ns
            self.fail(stream, name, error)

    def send(self, stream: Stream, messages: bytes) -> None:
        """Sends messages of a stream, each with its prefix."""
        self.h2.send(stream, messages)
        self.serving.mark_for_flush(self)

    def fail(self, stream: Stream, name: str, error: Exception) -> None:
        """Ends a call with the status of an error."""
        serving = self.serving
        status = serving.status_of(error)
        self.h2.finish(stream, status.code, status.message, status.SerializeToString())
        serving.metrics.request(name, CODE_NAMES[status.code], serving.now_ns() - stream.arrived_ns)
        serving.mark_for_flush(self)

    def finish(self, stream: Stream) -> None:
        """Ends a call with success, behind its unsent messages."""
        self.h2.finish(stream)
        self.serving.mark_for_flush(self)

    def flush_now(self) -> None:
        """Writes the output to a plaintext socket at once: the transport would write at the end of the loop's turn.

        Called for a single response of a read, which ends with `flush`. With many responses in flight, one write at
        the end of the turn is cheaper for both sides.
        """
        if self._fd < 0 or self._transport.get_write_buffer_size():
            return
        data = self.h2.output()
        try:
            written = os.write(self._fd, data)
        except OSError:  # the transport's write fails too, and reports a lost connection
            written = 0
        if written < len(data):
            self._transport.write(memoryview(data)[written:])

    def flush(self) -> None:
        if self._lingering is not None:
            return
        if self._transport is not None and (data := self.h2.output()):
            self._transport.write(data)
        if self.h2.inflating_calls:
            self.serving.inflate_turns.add(self)
        if self._fault is not None and not self._transport.is_closing() and not self._responses_due:
            self._close_for_fault(self._fault)

    def inflate(self) -> bool:
        """Inflates messages within the budget; returns whether some still wait."""
        self.h2.inflate()
        self._handler.accept(self, self.serving.now_ns())
        self.flush()
        return self.h2.is_inflating

    def close(self) -> None:
        """Closes the write side, and reads until the peer closes its side or LINGER_S have passed.

        If the socket were closed with unread bytes, TCP would reset the connection. Then the peer would lose bytes.
        """
        self._fd = -1
        if self._lingering is None and not self._transport.is_closing():
            if self._transport.can_write_eof():  # TLS cannot: there GOAWAY makes the peer close
                self._transport.write_eof()
            if not self.paused:
                self._transport.resume_reading()
            self._lingering = asyncio.get_running_loop().call_later(LINGER_S, self._transport.close)

    def abort(self) -> None:
        self._fd = -1
        self._transport.abort()

    def sweep(self, now_ns: int, *, is_late: bool = False) -> None:
        """Called about once a second: ends the connection if a frame that began makes no progress.

        is_late: the event loop was blocked, and nothing was read meanwhile.
        """
        if self._lingering is not None:
            return
        self.h2.reset_abuse_score()
        if self.h2.reset_held_open():
            self.flush()
        if is_late:
            self.h2.excuse(now_ns)
        timeout_ns = round(self._limits.partial_s * 1e9)
        if self._fault is not None:
            if now_ns - self._fault_ns > timeout_ns:  # the peer does not read its responses
                self._close_for_fault(self._fault)
        elif not self.paused and self.h2.is_stalled(now_ns, timeout_ns):
            self._break(ProtocolError(ErrorCode.SETTINGS_TIMEOUT, "no whole frame arrived in time"))
            self.flush()

    def _break(self, fault: ProtocolError) -> None:
        """Stops reading. Whole calls are answered before the end, as the last stream id in GOAWAY promises."""
        self._fault = fault
        self._fault_ns = self.serving.now_ns()
        self.h2.forget_partial()
        if not self._transport.is_closing():
            self._transport.pause_reading()

    @property
    def _responses_due(self) -> bool:
        return self.h2.has_whole_calls or any(
            stream.call is not None and stream.call.responses_due for stream in self.h2.streams.values()
        )

    def _close_for_fault(self, fault: ProtocolError) -> None:
        self.h2.go_away(fault.code, fault.reason)
        if data := self.h2.output():
            self._transport.write(data)
        self.close()


def _keep_alive(sock: socket.socket, limits: SocketLimits) -> None:
    """Enables TCP keep-alive probes, which detect a peer that disappeared without a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(limits.keepalive_s)))
    _set_user_timeout(sock, limits.keepalive_timeout_s)


def _set_user_timeout(sock: socket.socket, timeout_s: float) -> None:
    """Limits the time without acknowledgement of sent bytes, or with a closed window; 0: the system's default."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(timeout_s * 1000))
