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

# How long a connection whose write side is closed is read on, so that the peer receives what was sent last.
LINGER_S = 1.0
WRITE_HIGH = 1024 * 1024  # bytes the kernel has not taken before a connection is read no more


@dataclass(frozen=True)
class SocketLimits:
    """partial_s: how long a preface or a frame that has begun may take to its end (slow loris).

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
        self.connection = Connection(front.methods, front, front.limits)
        self.paused = False  # the kernel takes no more: nothing is read until it does
        self._transport: Any = None
        self._lingering: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            _keep_alive(sock, self.front.sockets)
        if len(self.front.links) >= self.front.sockets.max_connections:
            self._transport.abort()
            return
        self.connection.partial_since_ns = self.front.now_ns()
        self.front.links.add(self)
        if self.front.state.draining:
            self.connection.go_away()
        self.flush()

    def data_received(self, data: bytes) -> None:
        front, connection = self.front, self.connection
        if self._lingering is not None:
            return  # the peer has not read our end yet
        now_ns = front.now_ns()
        front.arrived(len(data), now_ns)
        try:
            connection.receive(data, now_ns)
        except ProtocolError as fault:
            front.take(self)
            self._break(fault)
            return
        if connection.blocks:
            front.blocks.take(self, now_ns)
        if connection.calls:
            front.take_calls(self, now_ns)
        if connection.events:
            front.take(self)
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.front.links.discard(self)
        if self._lingering is not None:
            self._lingering.cancel()
        for stream in self.connection.abandon():
            if stream.app is not None:
                stream.app.cancel()

    def pause_writing(self) -> None:
        self.paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.paused = False
        self._transport.resume_reading()
        for stream in self.connection.streams.values():
            if isinstance(stream.app, FrameStream):
                self.front.activate(stream.app)
            elif isinstance(stream.app, Dialogue):
                stream.app.woken()

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
        if self._lingering is None and self._transport is not None and (data := self.connection.output()):
            self._transport.write(data)

    def finish(self) -> None:
        """Closes the write side and reads on, until the peer closes its own or LINGER_S have passed.

        Closed with bytes unread, TCP would reset the connection, and the peer would lose what it has not read.
        """
        if self._lingering is None and not self._transport.is_closing():
            if self._transport.can_write_eof():  # TLS cannot: there GOAWAY makes the peer close
                self._transport.write_eof()
            self._lingering = asyncio.get_running_loop().call_later(LINGER_S, self._transport.close)

    def abort(self) -> None:
        self._transport.abort()

    def sweep(self, now_ns: int) -> None:
        if self._lingering is not None:
            return
        self.connection.forgive()
        self.flush()
        since_ns = self.connection.partial_since_ns
        if since_ns is not None and now_ns - since_ns > self.front.sockets.partial_s * 1e9:
            self._break(ProtocolError(ErrorCode.SETTINGS_TIMEOUT, "nothing whole came in time"))

    def _break(self, fault: ProtocolError) -> None:
        self.connection.go_away(fault.code, fault.reason)
        self.flush()
        self.finish()


def _keep_alive(sock: socket.socket, limits: SocketLimits) -> None:
    """TCP's own probes find a peer that has gone without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(limits.keepalive_s)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(limits.keepalive_timeout_s * 1000)))
