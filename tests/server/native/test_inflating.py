"""Compressed messages that inflate to large ones leave the loop to other callers."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from common.http2 import frames
from server.http2.inflating import MIN_RATIO_BYTES, TURN_BYTES
from server.native.front import NativeFront
from tests.server.http2.peer import Frame, block, message
from tests.server.native.conftest import SERVICE, Client

BOMB = message(gzip.compress(bytes(16 * 1024 * 1024)), 1)
PATHS = [
    SERVICE + b"Predict",
    SERVICE + b"StreamPredict",
    SERVICE + b"Health",
    b"/inference.GRPCInferenceService/ModelInfer",
    b"/inference.GRPCInferenceService/ModelStreamInfer",
    b"/grpc.health.v1.Health/Watch",
]


def ends(got: list[Frame]) -> int:
    return sum(1 for frame in got if frame.kind == frames.HEADERS and frame.flags & frames.END_STREAM)


@pytest.mark.parametrize("path", PATHS)
async def test_another_client_is_answered_between_the_turns_of_128_bombs(front: NativeFront, path: bytes) -> None:
    hostile, other = Client(front), Client(front)
    head = block(path, (b"grpc-encoding", b"gzip"))
    for stream in range(1, 257, 2):
        hostile.send(frames.frame(frames.HEADERS, 4, stream, head), frames.frame(frames.DATA, 1, stream, BOMB))
    got: list[Frame] = []
    turns = 0
    while ends(got) < 128:
        assert front.inflate_turns.budget.left > -TURN_BYTES // 4
        other.call(2 * turns + 1, b"", b"Health")
        assert ends(other.read()) == 1, "within its read"
        await asyncio.sleep(0)
        got += hostile.read()
        turns += 1
    assert turns > 100 * MIN_RATIO_BYTES // TURN_BYTES
    assert front.inflate_turns._waiting == {}
    for client in (hostile, other):
        client.link.connection_lost(None)


async def test_a_lost_link_waits_for_no_turn(front: NativeFront) -> None:
    hostile = Client(front)
    head = block(PATHS[0], (b"grpc-encoding", b"gzip"))
    for stream in range(1, 9, 2):
        hostile.send(frames.frame(frames.HEADERS, 4, stream, head), frames.frame(frames.DATA, 1, stream, BOMB))
    hostile.link.connection_lost(None)
    assert front.inflate_turns._waiting == {}
    await asyncio.sleep(0)
