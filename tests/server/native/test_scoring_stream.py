"""Frames of a stream are taken while others are scored, within bounds, and answered in order."""

from __future__ import annotations

import asyncio

from server.http2 import frames
from server.native.front import NativeFront
from server.native.scoring_stream import MAX_IN_FLIGHT_BYTES
from tests.server.http2.peer import message
from tests.server.native.calls import a_stream, answers, frame, request, status
from tests.server.native.conftest import Client
from volcast.v1 import StreamPredictResponse


def frame_ids(raw: list[bytes]) -> list[int]:
    return [StreamPredictResponse.FromString(reply).frame_id for reply in raw]


async def learned(client: Client, rows: int = 1) -> None:
    """A stream on which a frame was answered, so that later ones match its template."""
    a_stream(client)
    client.send(frames.window_update(1, 2**24))
    client.data(1, frame(1, request(rows)))
    await client.until(lambda got: len(answers(got, 1)) == 1)


async def test_the_peer_gets_room_before_the_frames_in_flight_are_answered(front: NativeFront, client: Client) -> None:
    await learned(client, 100)
    sent = [frame(number, request(100, number)) for number in range(10, 26)]
    for raw in sent:
        client.data(1, raw)
    await asyncio.sleep(0)  # a turn: all frames are queued, and the first batch is scored
    got = client.read()
    assert any(sent.kind == frames.WINDOW_UPDATE and sent.stream == 1 for sent in got)
    assert 0 < len(answers(got, 1)) < len(sent)
    assert front.serving.batches.batcher.waiting
    got += await client.until(lambda more: len(answers(got + more, 1)) == len(sent))
    assert frame_ids(answers(got, 1)) == list(range(10, 26))


async def test_frames_in_flight_are_bounded(front: NativeFront, client: Client) -> None:
    await learned(client, 200)
    raw = frame(7, request(200))
    stream = client.link.h2.streams[1]
    for _ in range(60):
        if stream.receive_window > len(raw):
            client.data(1, raw[:16_384])
            client.data(1, raw[16_384:])
        stream.call.queue_frames()
    assert stream.call._in_flight_bytes <= MAX_IN_FLIGHT_BYTES + len(raw)
    assert stream.size > 0
    received = front.serving.batches.batcher.rows // 200 + stream.size // len(raw)
    got = await client.until(lambda got: len(answers(got, 1)) >= received)
    assert stream.call.idle
    assert stream.call._in_flight_bytes == 0
    assert set(frame_ids(answers(got, 1))) == {7}


async def test_a_message_that_ends_the_call_does_not_overtake_frames_in_flight(client: Client) -> None:
    await learned(client)
    for number in range(10, 13):
        client.data(1, frame(number, request(seed=number)))
    too_large = (17 * 1024 * 1024).to_bytes(4, "big")
    client.data(1, b"\0" + too_large)
    got = await client.ended(1)
    assert frame_ids(answers(got, 1)) == [10, 11, 12]
    assert status(got, 1) == b"8"


async def test_frames_before_a_message_that_is_too_large_are_answered(client: Client) -> None:
    a_stream(client)
    too_large = b"\0" + (17 * 1024 * 1024).to_bytes(4, "big")
    client.data(1, frame(1, request()) + frame(2, request()) + too_large)
    got = await client.ended(1)
    assert frame_ids(answers(got, 1)) == [1, 2]
    assert status(got, 1) == b"8"


async def test_the_end_of_the_callers_side_waits_for_frames_in_flight(client: Client) -> None:
    await learned(client)
    client.data(1, frame(10, request(3)))
    client.data(1, frame(11, request(4)))
    client.data(1, b"", frames.END_STREAM)
    got = await client.ended(1)
    assert frame_ids(answers(got, 1)) == [10, 11]
    assert status(got, 1) == b"0"


async def test_a_frame_of_many_rows_is_answered_before_the_frames_behind_it(client: Client) -> None:
    """It is computed on another thread."""
    await learned(client)
    client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 2**24}))
    whole = message(frame(10, request(2500))[5:])
    for at in range(0, len(whole), 16_384):
        client.data(1, whole[at : at + 16_384])
    for number in range(11, 14):
        client.data(1, frame(number, request(seed=number)))
    got = await client.until(lambda got: len(answers(got, 1)) == 4)
    assert frame_ids(answers(got, 1)) == [10, 11, 12, 13]
