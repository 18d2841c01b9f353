"""Each limit against a connection that goes beyond it."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import grpc
import pytest

from common.config import ServerConfig
from server.security.limits import channel_options
from tests.processes import await_true
from tests.server.security.echo import STREAM, UNARY, call, echo
from tests.server.security.raw import (
    ACK,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    PING,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    Raw,
)


def limited(**keys: Any) -> Any:
    return echo(options=channel_options(ServerConfig(**keys)))


async def test_a_message_over_the_limit_is_refused_as_the_callers_fault() -> None:
    async with limited(max_message_bytes=1000) as address, grpc.aio.insecure_channel(address) as channel:
        assert len(await channel.unary_unary(UNARY, bytes, bytes)(bytes(1000), timeout=10)) == 1000
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(UNARY, bytes, bytes)(bytes(1001), timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_headers_over_the_limit_are_refused_and_the_connection_lives_on() -> None:
    async with limited(max_metadata_bytes=2048) as address, grpc.aio.insecure_channel(address) as channel:
        method = channel.unary_unary(UNARY, bytes, bytes)
        assert await method(b"row", metadata=(("a", "x" * 1200),), timeout=10) == b"row"
        for _ in range(6):  # between gRPC's soft and hard limit it would be refused now and then
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"row", metadata=(("a", "x" * 2500),), timeout=10)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await method(b"row", timeout=10) == b"row"


async def test_settings_announce_the_limits_of_headers_and_streams() -> None:
    def ask(address: str) -> dict[int, int]:
        with Raw(address) as raw:
            raw.greet()
            return raw.settings()

    async with limited(max_concurrent_streams=7, max_metadata_bytes=2048) as address:
        settings = await asyncio.to_thread(ask, address)
    assert (settings[MAX_CONCURRENT_STREAMS], settings[MAX_HEADER_LIST_SIZE]) == (7, 2048)


async def test_streams_over_the_limit_are_refused_however_many_are_opened() -> None:
    def abuse(address: str) -> dict[int, int]:
        """The code by which each stream ended, once seven have."""
        with Raw(address) as raw:
            raw.greet()
            assert raw.settings()[MAX_CONCURRENT_STREAMS] == 3
            raw.send(SETTINGS, flags=ACK)
            for index in range(10):
                raw.open_call(2 * index + 1, STREAM)
            ended: dict[int, int] = {}
            for kind, _, stream, body in raw.frames():
                if kind == RST_STREAM:
                    ended[stream] = int.from_bytes(body, "big")
                if len(ended) == 7:
                    break
            return ended

    async with limited(max_concurrent_streams=3) as address:
        assert await asyncio.to_thread(abuse, address) == dict.fromkeys(range(7, 21, 2), REFUSED_STREAM)
        assert await call(address) == b"row"


async def test_a_peer_that_pings_too_often_gets_enhance_your_calm_and_is_disconnected() -> None:
    def abuse(address: str) -> list[int]:
        with Raw(address) as raw:
            raw.greet()
            for _ in range(5):
                raw.send(PING, b"12345678")
            return [struct.unpack(">II", body[:8])[1] for kind, _, _, body in raw.frames() if kind == GOAWAY]

    async with limited() as address:
        assert await asyncio.to_thread(abuse, address) == [ENHANCE_YOUR_CALM]
        assert await call(address) == b"row"


async def test_who_says_nothing_after_connecting_is_dropped() -> None:
    def wait(address: str) -> list[Any]:
        with Raw(address) as raw:
            return [kind for kind, *_ in raw.frames()]

    async with limited(handshake_timeout_s=0.2) as address:
        assert HEADERS not in await asyncio.to_thread(wait, address)


async def test_who_does_not_answer_a_keepalive_is_dropped() -> None:
    def wait(address: str) -> list[int]:
        with Raw(address) as raw:
            raw.greet()
            return [kind for kind, flags, _, _ in raw.frames() if kind == PING and not flags & ACK]

    async with limited(keepalive_s=0.2, keepalive_timeout_s=0.2) as address:
        assert await asyncio.to_thread(wait, address)


async def test_connections_over_the_limit_are_closed_at_once_and_make_room_when_they_go() -> None:
    def answered(raw: Raw) -> bool:
        try:
            raw.greet()
            return any(kind == SETTINGS for kind, *_ in raw.frames())
        except (BrokenPipeError, ConnectionResetError):
            return False

    def anew(address: str) -> bool:
        with Raw(address) as raw:
            return answered(raw)

    async with limited(max_connections=2) as address:
        with Raw(address) as first, Raw(address) as second:
            assert await asyncio.to_thread(answered, first)
            assert await asyncio.to_thread(answered, second)
            assert not await asyncio.to_thread(anew, address)
        await asyncio.to_thread(await_true, lambda: anew(address), 10)


@pytest.mark.parametrize("max_queue", [1, 4096, 50_000])
def test_grpcs_own_queue_of_calls_is_longer_than_ours_and_bounded(max_queue: int) -> None:
    options = dict(channel_options(ServerConfig(max_queue=max_queue)))
    pending = options["grpc.server.max_pending_requests"]
    assert max_queue < pending <= max(8192, 2 * max_queue)
    assert options["grpc.server.max_pending_requests_hard_limit"] == 2 * pending
