"""The native front: listens, builds connections, and drains."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from common.errors import UnavailableError
from common.ports import BACKLOG, BoundPort
from server.http2.connection import Connection, Limits
from server.http2.headers import FAST_UNARY, STREAMING, UNARY
from server.http2.stream import Stream
from server.native.connection import LINGER_S, ServerConnection, SocketLimits
from server.native.dispatch import Dispatcher
from server.native.inflating import InflateTurns
from server.native.scoring_stream import ScoringStreamCall
from server.native.serving import Serving
from server.native.spin import Spinner
from server.native.streaming import StreamingCall
from server.rpc.dependencies import FrontDependencies
from server.rpc.methods import Method, Scoring, Unary

SWEEP_S = 1.0
DRAIN_TICK_S = 0.02
# If no frame has arrived for so long, none is in flight: a drain ends the stream at once.
IDLE_NS = 50_000_000
# How long a drain waits for an idle stream before it ends the stream between two frames.
MAX_BUSY_STREAM_S = 1.0
# How long peers may take to read the last status and to close their side of the call.
STATUS_S = 0.5
DRAINING = "the server is draining"


class NativeFront:
    """Must be built on the running loop."""

    def __init__(
        self,
        needs: FrontDependencies,
        limits: Limits,
        sockets: SocketLimits,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._methods: Mapping[bytes, Method] = {path.encode(): method for path, method in needs.methods.items()}
        self._gate = needs.gate
        self._limits = limits
        self._sockets = sockets
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self.spinner = Spinner(self._loop, needs.plane.now_ns, sockets.spin_us * 1000)
        self.inflate_turns = InflateTurns(self._loop)
        self.serving = Serving(
            needs.plane, needs.batches, needs.state, needs.metrics, self.spinner, self.inflate_turns, needs.log
        )
        self._dispatcher = Dispatcher(self.serving)
        self.connections: set[ServerConnection] = set()
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._swept_ns = needs.plane.now_ns()

    def connect(self) -> ServerConnection:
        """The protocol of a new connection."""
        h2 = Connection(self._methods, self, self._limits, self.inflate_turns.budget)
        return ServerConnection(self.serving, self._dispatcher, h2, self._sockets, self.connections)

    # The CallPolicy of server.http2.

    def kind(self, method: Method) -> int:
        if isinstance(method, Scoring):
            return FAST_UNARY
        return UNARY if isinstance(method, Unary) else STREAMING

    def refusal(self, path: bytes, authorization: bytes) -> str:
        return self._gate.refusal(path, authorization)

    def forget_callers(self) -> None:
        """Called after a change of the tokens: connections decide again about each header block."""
        for connection in self.connections:
            connection.h2.forget_heads()

    async def start(self, *ports: BoundPort) -> None:
        """Listens on each port. Raises UnavailableError if another process already listens there."""
        for port in ports:
            listener = port.listen()
            self._servers.append(
                await self._loop.create_server(self.connect, sock=listener, backlog=BACKLOG, **self._secured())
            )
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    async def start_trial(self, port: BoundPort) -> None:
        """Listens for the server's own first call, before any other port is open."""
        await self.start(port)

    async def end_trial(self) -> None:
        self._servers.pop().close()

    def _secured(self) -> dict[str, Any]:
        """TLS arguments, with limits for the time of a handshake and of an unanswered shutdown."""
        limit_s = self._sockets.partial_s
        return {"ssl": self._tls, "ssl_handshake_timeout": limit_s, "ssl_shutdown_timeout": 1.0} if self._tls else {}

    async def drain(self, drain_s: float) -> None:
        """Ends every connection: no call begins, and calls in progress get `drain_s` seconds.

        A stream ends when it pauses, or after MAX_BUSY_STREAM_S between two frames. Calls that are left at the end
        get UNAVAILABLE. A peer that does not read this status delays the end by up to STATUS_S + LINGER_S.
        """
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.h2.go_away()
            connection.flush()
        began_s = self._loop.time()
        busy_s = min(MAX_BUSY_STREAM_S, drain_s / 2)
        while self.connections and (passed_s := self._loop.time() - began_s) < drain_s:
            self.end_streams(even_busy=passed_s >= busy_s)
            await asyncio.sleep(DRAIN_TICK_S)
        await self._end_connections()
        for connection in list(self.connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def end_streams(self, *, even_busy: bool) -> None:
        """Ends streams so that their callers open another on another replica; closes connections without calls."""
        now_ns = self.serving.now_ns()
        for connection in list(self.connections):
            for stream in list(connection.h2.streams.values()):
                call = stream.call
                if isinstance(call, ScoringStreamCall):
                    if even_busy or (call.idle and now_ns - call.last_frame_ns > IDLE_NS):
                        call.end_after_frame(UnavailableError(DRAINING))
                elif even_busy and isinstance(call, StreamingCall):
                    _end_call(connection, stream)
            connection.flush()
            if connection.h2.is_done:
                connection.close()

    async def _end_connections(self) -> None:
        """Sends a status for every open call, and closes each connection once its peer has read the status.

        gRPC's C core loses a status that it reads together with the end of the connection.
        """
        began_s = self._loop.time()
        while self.connections and (passed_s := self._loop.time() - began_s) < STATUS_S + LINGER_S:
            for connection in list(self.connections):
                for stream in connection.h2.open_streams():
                    _end_call(connection, stream)
                connection.flush()
                if connection.h2.is_done or passed_s >= STATUS_S:
                    connection.close()
            await asyncio.sleep(DRAIN_TICK_S)

    def _sweep(self) -> None:
        now_ns = self.serving.now_ns()
        is_late = now_ns - self._swept_ns > 2e9 * SWEEP_S
        self._swept_ns = now_ns
        for connection in list(self.connections):
            connection.sweep(now_ns, is_late=is_late)
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)


def _end_call(connection: ServerConnection, stream: Stream) -> None:
    call, method = stream.call, stream.head.method
    if method is not None and stream.trailers is None:
        connection.fail(stream, method.name, UnavailableError(DRAINING))
    if call is not None:
        call.cancel()
