"""One connection's socket on the event loop."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from server.http2.connection import Connection
from server.http2.frames import ErrorCode, ProtocolError
from server.http2.stream import Stream
from server.native.calls import Dialogue, FrameStream
from server.runtime.metrics import CODE_NAMES

if TYPE_CHECKING:
    from server.native.front import NativeFront

MAX_READ_WORK = 2048  # of one read before other connections have their turn
MAX_TIMER_S = 3600.0  # of the event loop: timeouts of callers may be years
WRITE_HIGH = 1024 * 1024  # bytes the kernel has not taken before a connection is read no more


@dataclass(frozen=True)
class SocketLimits:
    """partial_s: how long a preface, a frame or a header block that has begun may take to its end, or, if it arrives
    faster than MIN_BYTES_PER_S, until its progress is measured again (slow loris).

    spin_us: how long the loop looks for the next call before it sleeps, while calls are arriving.
    """

    spin_us: int = 250
    max_connections: int = 16_384
    partial_s: float = 10.0
    keepalive_s: float = 60.0
    keepalive_timeout_s: float = 20.0
    reuse_port: bool = False


class Link(asyncio.Protocol):
    """One connection's socket."""

    def __init__(self, front: NativeFront) -> None:
        self.front = front
        self.connection = Connection(front.methods, front, front.limits, front.inflate_turns.budget)
        self.paused = False  # the kernel takes no more: nothing is read until it does
        self._transport: Any = None
        self.is_yielding = False  # reads nothing in this turn of the loop
        self._fault: ProtocolError | None = None  # of the peer: the connection ends once whole calls are answered
        self._fault_ns = 0
        self._deadline_ns: int | None = None  # when the timer for it goes off
        self._deadline_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            _keep_alive(sock, self.front.sockets)
        if len(self.front.links) >= self.front.sockets.max_connections:
            self._transport.abort()
            return
        self.connection.restart_clock(self.front.now_ns())
        self.front.links.add(self)
        if self.front.state.draining:
            self.connection.go_away()
        # The server's SETTINGS are sent once the peer's first bytes are here: HTTP/1 is answered in its own form.

    def data_received(self, data: bytes) -> None:
        if self._fault is not None:
            return
        front, connection = self.front, self.connection
        now_ns = front.now_ns()
        front.arrived(len(data), now_ns)
        try:
            connection.receive(data, now_ns)
        except ProtocolError as fault:
            self._break(fault)
        if connection.work > MAX_READ_WORK:
            self._yield()
        if connection.blocks:
            front.blocks.take(self, now_ns)
        if connection.calls:
            front.take_calls(self, now_ns)
        if connection.events:
            front.take(self)
        if connection.next_deadline_ns is not None:
            self._watch_deadline(now_ns)
        self.flush()

    def _yield(self) -> None:
        """Lets other connections read: the loop would read on here as long as bytes are there."""
        if not self.is_yielding and not self._transport.is_closing():
            self.is_yielding = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        self.is_yielding = False
        if self._transport.is_closing() or self._fault is not None or self.paused:
            return
        if self.connection.has_more:
            self.data_received(b"")
        if not self.is_yielding and self._fault is None:
            self._transport.resume_reading()

    def _watch_deadline(self, now_ns: int) -> None:
        next_ns = self.connection.next_deadline_ns
        if next_ns is None or (self._deadline_ns is not None and self._deadline_ns <= next_ns):
            return
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._deadline_ns = next_ns
        delay_s = min(max(0, next_ns - now_ns) * 1e-9, MAX_TIMER_S)
        self._deadline_timer = asyncio.get_running_loop().call_later(delay_s, self._expire)

    def _expire(self) -> None:
        self._deadline_ns = self._deadline_timer = None
        now_ns = self.front.now_ns()
        self.connection.expire(now_ns)
        self.front.take(self)
        self._watch_deadline(now_ns)
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.front.links.discard(self)
        self.front.inflate_turns.discard(self)
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        for stream in self.connection.abandon():
            if stream.call is not None:
                stream.call.cancel()

    def pause_writing(self) -> None:
        self.paused = True
        self._transport.pause_reading()
        self._set_user_timeout(0)  # the kernel's limit would end a peer that takes its time to read

    def resume_writing(self) -> None:
        self.paused = False
        self.connection.excuse(self.front.now_ns())
        if self.connection.has_more:
            self._yield()
        elif self._fault is None and not self.is_yielding:
            self._transport.resume_reading()
        self._set_user_timeout(self.front.sockets.keepalive_timeout_s)
        for stream in self.connection.streams.values():
            if isinstance(stream.call, FrameStream):
                self.front.activate(stream.call)
            elif isinstance(stream.call, Dialogue):
                stream.call.woken()

    def _set_user_timeout(self, timeout_s: float) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            _set_user_timeout(sock, timeout_s)

    def respond(self, stream: Stream, name: str, message: bytes) -> None:
        self.connection.respond(stream, message)
        self.front.metrics.request(name, "OK", self.front.now_ns() - stream.arrived_ns)
        self.front.dirty[self] = None

    def send(self, stream: Stream, messages: bytes) -> None:
        """Messages of a stream, each with its prefix."""
        self.connection.send(stream, messages)
        self.front.dirty[self] = None

    def fail(self, stream: Stream, name: str, error: Exception) -> None:
        status = self.front.status_of(error)
        self.connection.finish(stream, status.code, status.message, status.SerializeToString())
        self.front.metrics.request(name, CODE_NAMES[status.code], self.front.now_ns() - stream.arrived_ns)
        self.front.dirty[self] = None

    def end(self, stream: Stream) -> None:
        self.connection.finish(stream)
        self.front.dirty[self] = None

    def flush(self) -> None:
        if self._transport is not None and (data := self.connection.output()):
            self._transport.write(data)
        if self.connection.is_inflating:
            self.front.inflate_turns.add(self)
        if self._fault is not None and not self._transport.is_closing() and not self._answers_due:
            self._close_for_fault(self._fault)

    def inflate(self) -> bool:
        self.connection.inflate()
        self.front.take(self)
        self.flush()
        return self.connection.is_inflating

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def sweep(self, now_ns: int, *, is_late: bool = False) -> None:
        """Called about once a second. is_late: the loop stood still, and nothing was read meanwhile."""
        self.connection.reset_abuse_score()
        if is_late:
            self.connection.excuse(now_ns)
        timeout_ns = round(self.front.sockets.partial_s * 1e9)
        if self._fault is not None:
            if now_ns - self._fault_ns > timeout_ns:  # the peer does not read its answers
                self._close_for_fault(self._fault)
        elif not self.paused and self.connection.is_stalled(now_ns, timeout_ns):
            self._break(ProtocolError(ErrorCode.SETTINGS_TIMEOUT, "nothing whole came in time"))
            self.flush()

    def _break(self, fault: ProtocolError) -> None:
        """Reads no more. Whole calls are answered first: the last stream id in GOAWAY promises it."""
        self._fault = fault
        self._fault_ns = self.front.now_ns()
        self.connection.forget_partial()
        if not self._transport.is_closing():
            self._transport.pause_reading()

    @property
    def _answers_due(self) -> bool:
        connection = self.connection
        return connection.has_whole_calls or any(
            isinstance(stream.call, FrameStream) and (stream.remote_closed or not stream.call.idle)
            for stream in connection.streams.values()
        )

    def _close_for_fault(self, fault: ProtocolError) -> None:
        self.connection.go_away(fault.code, fault.reason)
        if data := self.connection.output():
            self._transport.write(data)
        self._transport.close()


def _keep_alive(sock: socket.socket, limits: SocketLimits) -> None:
    """TCP's own probes find a peer that has gone without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(limits.keepalive_s)))
    _set_user_timeout(sock, limits.keepalive_timeout_s)


def _set_user_timeout(sock: socket.socket, timeout_s: float) -> None:
    """How long sent bytes may stay without an acknowledgement, or the peer's window shut; 0: as the system has it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(timeout_s * 1000))
