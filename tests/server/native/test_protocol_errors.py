"""What a protocol error of a connection ends, and what is answered before."""

from __future__ import annotations

from typing import Any

import pytest

from server.http2 import frames
from server.native.front import NativeFront
from tests.server.http2.peer import Frame, block, message
from tests.server.native.calls import WATCH, answers, frame, request, status
from tests.server.native.conftest import SERVICE, Client, Transport
from volcast.v1 import (
    StreamPredictResponse,
)

BROKEN = frames.frame(frames.RST_STREAM, 0, 0, bytes(4))  # PROTOCOL_ERROR of the connection


def goaways(got: list[Frame]) -> list[tuple[int, int]]:
    """(last stream, code) of each GOAWAY."""
    return [
        (frames.word(sent_frame.payload[:4]), frames.word(sent_frame.payload[4:8]))
        for sent_frame in got
        if sent_frame.kind == frames.GOAWAY
    ]


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("is_known", [True, False])
async def test_whole_calls_before_a_protocol_error_are_answered_before_the_end(
    client: Client, count: int, is_known: bool
) -> None:
    client.call(1, request().SerializeToString())
    await client.ended(1)
    extra = () if is_known else ((b"x-new", b"1"),)
    raw = message(request().SerializeToString())
    sent = []
    for stream in range(3, 3 + 2 * count, 2):
        sent.append(frames.frame(frames.HEADERS, 4, stream, block(SERVICE + b"Predict", *extra)))
        sent.append(frames.frame(frames.DATA, 1, stream, raw))
    client.send(*sent, BROKEN, frames.frame(frames.PING, 0, 0, bytes(8)))
    got = await client.until(goaways)
    for stream in range(3, 3 + 2 * count, 2):
        assert status(got, stream) == b"0"
    assert goaways(got) == [(1 + 2 * count, 1)]
    assert got[-1].kind == frames.GOAWAY
    assert client.transport.closed
    client.send(frames.frame(frames.PING, 0, 0, bytes(8)))
    assert client.read() == []


async def test_frames_of_a_stream_before_a_protocol_error_are_answered_before_the_end(client: Client) -> None:
    client.head(1, b"StreamPredict")
    body = b"".join(frame(number, request()) for number in range(3))
    client.send(frames.frame(frames.DATA, 0, 1, body), BROKEN)
    got = await client.until(goaways)
    assert [StreamPredictResponse.FromString(raw).frame_id for raw in answers(got, 1)] == [0, 1, 2]
    assert client.transport.closed


async def test_a_protocol_error_does_not_wait_for_the_rest_of_a_frame_of_a_stream(client: Client) -> None:
    client.head(1, b"StreamPredict")
    client.data(1, frame(1, request()))
    await client.until(lambda got: len(answers(got, 1)) == 1)
    client.data(1, frame(2, request())[:40])
    client.send(BROKEN)
    assert goaways(client.read()) == [(1, 1)]
    assert client.transport.closed


async def test_a_protocol_error_does_not_wait_for_calls_that_are_not_whole(client: Client) -> None:
    client.head(1, b"Predict")
    client.head(3, b"StreamPredict")
    client.call(5, b"", b"Health")
    client.head(7, b"", path=WATCH)
    client.data(7, message(b""), frames.END_STREAM)
    client.send(BROKEN)
    assert client.transport.closed
    assert goaways(client.read()) == [(7, 1)]


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_protocol_error_does_not_wait_for_a_window_of_the_peer(client: Client, streaming: bool) -> None:
    """The server reads no more, so the window cannot grow."""
    client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    if streaming:
        client.head(1, b"StreamPredict")
        client.data(1, frame(1, request()))
    else:
        client.call(1, request().SerializeToString())
    client.send(BROKEN)
    await client.until(goaways)
    assert client.transport.closed


async def test_a_stream_that_ends_with_a_part_of_a_message_fails(client: Client) -> None:
    client.head(1, b"StreamPredict")
    client.data(1, frame(1, request()) + frame(2, request())[:50], frames.END_STREAM)
    got = await client.ended(1)
    assert len(answers(got, 1)) == 1
    assert status(got, 1) == b"3"


async def test_http1_on_the_port_is_answered_by_a_line_of_text(front: NativeFront) -> None:
    transport: Any = Transport()
    link = front.connect()
    link.connection_made(transport)
    link.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert transport.written.endswith(b"\n")
    assert transport.closed
    link.connection_lost(None)
