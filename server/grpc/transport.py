"""The socket: a grpc.aio server with the doors behind it, and its orderly end."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from common.errors import UnavailableError
from server.core.dataplane import DataPlane
from server.grpc import health, inference, reflection
from server.metrics import ServerMetrics
from server.state import ServerState

DRAIN_TICK_S = 0.02


class GrpcServer:
    """Must be built on the running loop. Serves from `start`; says it does from `set_serving`."""

    def __init__(
        self, plane: DataPlane, state: ServerState, metrics: ServerMetrics, log: Any, max_message_bytes: int
    ) -> None:
        self._health = health.HealthDoor([inference.SERVICE])
        self._inference = inference.InferenceDoor(plane, state, metrics, log)
        self._state = state
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Off, or a second server on the same port would silently take half of the calls.
                ("grpc.so_reuseport", 0),
            ]
        )
        self._server.add_generic_rpc_handlers(
            (
                self._inference.handlers(),
                self._health.handlers(),
                *reflection.handlers([inference.SERVICE, health.SERVICE]),
            )
        )

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port, which is chosen freely where 0 was asked for."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError:
            raise UnavailableError(f"cannot listen on {address}; choose another with --host and --port") from None
        await self._server.start()
        return bound

    def set_serving(self) -> None:
        self._state.ready = True
        self._health.set_serving(True)

    async def drain(self, drain_s: float) -> None:
        """Health turns, new calls are refused, those in hand get `drain_s` seconds, then the socket closes."""
        self._state.draining, self._state.ready = True, False
        self._health.close()
        stopped = asyncio.ensure_future(self._server.stop(drain_s))
        while not stopped.done():
            await self._inference.end_idle_streams()
            await asyncio.wait([stopped], timeout=DRAIN_TICK_S)
        await stopped
