"""One connection's socket on the event loop."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Any, Protocol

from server.http2.connection import Connection
from server.http2.frames import ErrorCode, ProtocolError
from server.http2.stream import Stream
from server.native.serving import Serving
from server.runtime.metrics import CODE_NAMES

MAX_UNSENT_BYTES = 1024 * 1024  # that the kernel has not taken; above it the connection is not read


@dataclass(frozen=True)
class SocketLimits:
    """partial_s: how long a preface or a frame may take from its first byte to its last (slow loris).

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
        """Messages or the end of the peer's side have arrived, or the peer has room again.

        alone: the event is the only one of its read.
        """

    def cancel(self) -> None:
        """The peer has ended the call, or its connection is lost."""


class Handler(Protocol):
    """Takes the calls of connections."""

    def accept(self, connection: ServerConnection, now_ns: int) -> None:
        """Takes the calls and events that a read left in `connection.h2`."""


class ServerConnection(asyncio.Protocol):
    """Moves bytes between a socket and `server.http2`, and sends outcomes of calls."""

    def __init__(
        self, serving: Serving, handler: Handler, h2: Connection, limits: SocketLimits, peers: set[ServerConnection]
    ) -> None:
        """peers: the open connections of the front; this one adds and removes itself."""
        self.serving = serving
        self.h2 = h2
        self.paused = False  # the kernel takes no more bytes: nothing is read until it does
        self._handler = handler
        self._limits = limits
        self._peers = peers
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            _keep_alive(sock, self._limits)
        if len(self._peers) >= self._limits.max_connections:
            self._transport.abort()
            return
        self.h2.partial_since_ns = self.serving.now_ns()
        self._peers.add(self)
        if self.serving.state.draining:
            self.h2.go_away()
        self.flush()

    def data_received(self, data: bytes) -> None:
        serving, h2 = self.serving, self.h2
        now_ns = serving.now_ns()
        serving.spinner.on_read(len(data), now_ns)
        try:
            h2.receive(data, now_ns)
        except ProtocolError as error:
            self._handler.accept(self, now_ns)
            self._break(error)
            return
        if h2.calls or h2.blocks or h2.events:
            self._handler.accept(self, now_ns)
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._peers.discard(self)
        for stream in self.h2.abandon():
            if stream.call is not None:
                stream.call.cancel()

    def pause_writing(self) -> None:
        self.paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.paused = False
        self._transport.resume_reading()
        for stream in list(self.h2.streams.values()):
            if stream.call is not None:
                stream.call.on_data(alone=False)
        self.flush()

    def fail_call(self, stream_id: int, name: str, error: Exception, arrived_ns: int) -> None:
        """Ends a unary call with the status of an error, if its caller still waits."""
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

    def flush(self) -> None:
        if self._transport is not None and (data := self.h2.output()):
            self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def sweep(self, now_ns: int) -> None:
        """Called once a second: ends the connection if a frame that began has not ended in time."""
        self.h2.reset_abuse_score()
        since_ns = self.h2.partial_since_ns
        if since_ns is not None and now_ns - since_ns > self._limits.partial_s * 1e9:
            self._break(ProtocolError(ErrorCode.SETTINGS_TIMEOUT, "nothing whole came in time"))

    def _break(self, error: ProtocolError) -> None:
        self.h2.go_away(error.code, error.reason)
        self.flush()
        self._transport.close()


def _keep_alive(sock: socket.socket, limits: SocketLimits) -> None:
    """TCP's own probes find a peer that is gone without a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(limits.keepalive_s)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(limits.keepalive_timeout_s * 1000)))
