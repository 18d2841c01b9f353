"""A grpc.aio server as small as can be, with our credentials, options and gate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from server.security.guard import AuthenticatedHandlers
from server.security.tokens import Gate

UNARY, STREAM = "/test.Echo/Unary", "/test.Echo/Stream"
HEALTH = "/grpc.health.v1.Health/Check"


async def _unary(request: bytes, context: Any) -> bytes:
    return request


async def _stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


def handlers() -> dict[str, Any]:
    unary: Any = grpc.unary_unary_rpc_method_handler(_unary)
    stream: Any = grpc.stream_stream_rpc_method_handler(_stream)
    return {UNARY: unary, STREAM: stream, HEALTH: unary}


@asynccontextmanager
async def echo(
    credentials: grpc.ServerCredentials | None = None,
    options: Sequence[tuple[str, int]] = (),
    gate: Gate | None = None,
) -> AsyncIterator[str]:
    """The address of a running server."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *options])
    server.add_generic_rpc_handlers((AuthenticatedHandlers(gate or Gate(None), handlers()),))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


# Channels with equal arguments share a connection within a process: each of ours is to shake hands anew.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


async def call(
    address: str, credentials: grpc.ChannelCredentials | None = None, path: str = UNARY, **options: Any
) -> bytes:
    """One call on a connection of its own; raises grpc.aio.AioRpcError."""
    if credentials is None:
        channel = grpc.aio.insecure_channel(address, options=OWN_CONNECTION)
    else:
        channel = grpc.aio.secure_channel(address, credentials, options=OWN_CONNECTION)
    async with channel:
        answer: bytes = await channel.unary_unary(path, bytes, bytes)(b"row", timeout=10, **options)
        return answer
