"""The native front: listens, hands connections their parts, and drains."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from common.errors import UnavailableError
from common.ports import BACKLOG, BoundPort
from server.core.dataplane import DataPlane
from server.http2.connection import Connection, Limits
from server.http2.headers import FAST_UNARY, STREAMING, UNARY
from server.native.connection import ServerConnection, SocketLimits
from server.native.dispatch import Dispatcher
from server.native.inflating import InflateTurns
from server.native.scoring_stream import ScoringStreamCall
from server.native.serving import Serving
from server.native.spin import Spinner
from server.rpc.methods import Method, Methods, Scoring, Unary
from server.runtime.batch_loop import BatchLoop
from server.runtime.metrics import ServerMetrics
from server.runtime.state import ServerState
from server.security.tokens import Gate

SWEEP_S = 1.0
DRAIN_TICK_S = 0.02
# A stream without a frame for so long has none on its way, and a drain may end it.
IDLE_NS = 50_000_000


class NativeFront:
    """Must be built on the running loop."""

    def __init__(
        self,
        methods: Methods,
        plane: DataPlane,
        batches: BatchLoop,
        state: ServerState,
        metrics: ServerMetrics,
        gate: Gate,
        log: Any,
        limits: Limits,
        sockets: SocketLimits,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._methods: Mapping[bytes, Method] = {path.encode(): method for path, method in methods.items()}
        self._gate = gate
        self._limits = limits
        self._sockets = sockets
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self.spinner = Spinner(self._loop, plane.now_ns, sockets.spin_us * 1000)
        self.inflate_turns = InflateTurns(self._loop)
        self.serving = Serving(plane, batches, state, metrics, self.spinner, self.inflate_turns, log)
        self._dispatcher = Dispatcher(self.serving)
        self.connections: set[ServerConnection] = set()
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._swept_ns = plane.now_ns()

    def connect(self) -> ServerConnection:
        """The protocol of a new connection."""
        h2 = Connection(self._methods, self, self._limits, self.inflate_turns.budget)
        return ServerConnection(self.serving, self._dispatcher, h2, self._sockets, self.connections)

    # The `Gate` of server.http2.

    def kind(self, method: Method) -> int:
        if isinstance(method, Scoring):
            return FAST_UNARY
        return UNARY if isinstance(method, Unary) else STREAMING

    def refusal(self, path: bytes, authorization: bytes) -> str:
        return self._gate.refusal(path, authorization)

    def forget_callers(self) -> None:
        """Called after a change of the callers that are allowed in."""
        for connection in self.connections:
            connection.h2.forget_heads()

    async def start(self, *ports: BoundPort) -> None:
        """Listens at each. Raises UnavailableError if another process was first."""
        for port in ports:
            listener = port.listen()
            self._servers.append(
                await self._loop.create_server(self.connect, sock=listener, backlog=BACKLOG, **self._secured())
            )
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def _secured(self) -> dict[str, Any]:
        """Limits the time of a handshake, and of a goodbye that the peer does not answer."""
        limit_s = self._sockets.partial_s
        return {"ssl": self._tls, "ssl_handshake_timeout": limit_s, "ssl_shutdown_timeout": 1.0} if self._tls else {}

    async def drain(self, drain_s: float) -> None:
        """Accepts no connection and no call any more; calls in progress get `drain_s` seconds."""
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.h2.go_away()
            connection.flush()
        until = self._loop.time() + drain_s
        while self.connections and self._loop.time() < until:
            self.end_idle()
            await asyncio.sleep(DRAIN_TICK_S)
        for connection in list(self.connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def end_idle(self) -> None:
        """Ends the streams with no frame on its way, so that their callers open another on another replica."""
        now_ns = self.serving.now_ns()
        for connection in list(self.connections):
            for stream in list(connection.h2.streams.values()):
                call = stream.call
                if isinstance(call, ScoringStreamCall) and call.idle and now_ns - call.last_frame_ns > IDLE_NS:
                    call.fail(UnavailableError("the server is draining"))
            connection.flush()
            if connection.h2.closing and not connection.h2.open_calls:
                connection.close()

    def _sweep(self) -> None:
        now_ns = self.serving.now_ns()
        is_late = now_ns - self._swept_ns > 2e9 * SWEEP_S
        self._swept_ns = now_ns
        for connection in list(self.connections):
            connection.sweep(now_ns, is_late=is_late)
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
