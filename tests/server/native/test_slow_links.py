"""Links that stand still or creep: what is cut, and which time does not count."""

from __future__ import annotations

import asyncio

import pytest

from server.http2 import frames
from server.native.front import NativeFront
from server.native.streaming import StreamingCall
from tests.server.http2.peer import message
from tests.server.native.calls import WATCH, a_stream, answers, frame, request, status
from tests.server.native.conftest import Client, Clock


async def test_the_deadline_of_a_stream_ends_it(client: Client) -> None:
    a_stream(client, 1, (b"grpc-timeout", b"1n"))
    assert status(await client.ended(1), 1) == b"4"


async def test_a_reader_that_stops_is_read_no_more_until_it_goes_on(client: Client) -> None:
    call = a_stream(client)
    client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    client.link.h2.streams[1].send_window = 0
    await client.until(lambda got: any(sent_frame.kind == frames.SETTINGS for sent_frame in got))
    stream = call.stream
    for number in range(2000):
        if stream.receive_window < 200_000:
            break
        client.data(1, frame(number, request(100)))
        await asyncio.sleep(0)
    buffered = stream.unsent + stream.size
    assert buffered < 1024 * 1024
    client.send(frames.window_update(1, 2**30))
    await client.until(lambda got: bool(answers(got, 1)) and not stream.size and not stream.unsent)


async def test_a_dialogue_whose_link_is_paused_waits(client: Client) -> None:
    client.link.pause_writing()
    client.head(1, b"", path=WATCH)
    client.data(1, message(b""), frames.END_STREAM)
    dialogue = client.link.h2.streams[1].call
    assert isinstance(dialogue, StreamingCall)
    assert not client.transport.reading
    await client.until(lambda got: bool(answers(got, 1)))
    client.link.resume_writing()
    assert client.transport.reading
    client.send(frames.rst_stream(1, frames.ErrorCode.CANCEL))
    assert dialogue.task is not None
    await asyncio.gather(dialogue.task, return_exceptions=True)
    assert dialogue.task.done()


async def test_what_has_begun_must_end_in_time(client: Client, clock: Clock) -> None:
    client.send(b"\0\0")
    clock.ahead_ns = 9 * 10**9
    client.send(b"\0")
    client.link.sweep(clock())
    assert not client.transport.closed
    clock.ahead_ns = 11 * 10**9
    client.link.sweep(clock())
    assert client.transport.closed
    assert client.read()[-1].kind == frames.GOAWAY


async def test_time_does_not_count_while_the_server_reads_nothing(client: Client, clock: Clock) -> None:
    client.send(b"\0\0")
    client.link.pause_writing()
    clock.ahead_ns = 60 * 10**9
    client.link.sweep(clock())
    client.link.resume_writing()
    clock.ahead_ns += 9 * 10**9
    client.link.sweep(clock())
    assert not client.transport.closed
    clock.ahead_ns += 2 * 10**9
    client.link.sweep(clock())
    assert client.transport.closed


async def test_time_does_not_count_while_the_loop_stands_still(
    front: NativeFront, client: Client, clock: Clock
) -> None:
    client.send(b"\0\0")
    clock.ahead_ns = 60 * 10**9
    front._sweep()
    assert not client.transport.closed
    for _ in range(11):
        clock.ahead_ns += 10**9
        front._sweep()
    assert client.transport.closed
    assert front._sweeper is not None
    front._sweeper.cancel()


@pytest.mark.parametrize(("bytes_per_s", "is_cut"), [(15_000, False), (1100, False), (900, True), (1, True)])
async def test_a_slow_frame_lives_while_it_makes_progress(
    client: Client, clock: Clock, bytes_per_s: int, is_cut: bool
) -> None:
    client.head(1, b"StreamPredict")
    data = frames.frame(frames.DATA, 0, 1, message(bytes(200_000)))
    for second in range(min(60, len(data) // bytes_per_s + 1)):
        clock.ahead_ns = second * 10**9
        client.send(data[second * bytes_per_s : (second + 1) * bytes_per_s])
        client.link.sweep(clock())
    assert client.transport.closed == is_cut


async def test_a_header_block_in_slow_pieces_is_cut(client: Client, clock: Clock) -> None:
    client.send(frames.frame(frames.HEADERS, 0, 1, b""))
    for second in range(12):
        clock.ahead_ns = second * 10**9
        client.send(frames.frame(frames.CONTINUATION, 0, 1, b""))
        client.link.sweep(clock())
    assert client.transport.closed


async def test_an_idle_link_is_left_alone(client: Client, clock: Clock) -> None:
    clock.ahead_ns = 10**12
    client.link.sweep(clock())
    assert not client.transport.closed


async def test_an_answer_that_waits_for_its_reader_does_not_keep_the_rows_of_its_request(client: Client) -> None:
    client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    client.call(1, request(1000).SerializeToString())
    stream = client.link.h2.streams.get(1) or client.link.h2.promote(1)
    assert stream is not None
    async with asyncio.timeout(10):
        while not stream.unsent:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert stream.call is None
    client.send(frames.window_update(1, 100_000))
    assert status(await client.ended(1), 1) == b"0"


@pytest.mark.parametrize("part", [b"", b"\0\0\0", message(request().SerializeToString())[:-1]])
async def test_a_unary_call_whose_message_never_arrives_ends_at_its_deadline(client: Client, part: bytes) -> None:
    client.call(1, request().SerializeToString())
    await client.ended(1)
    client.head(3, b"Predict", (b"grpc-timeout", b"20m"))
    client.data(3, part) if part else None
    assert status(await client.ended(3), 3) == b"4"
    assert client.link.h2.open_calls == 0


async def test_a_read_with_much_work_lets_others_read_before_it_goes_on(front: NativeFront, client: Client) -> None:
    client.head(1, b"StreamPredict")
    client.data(1, b"\0\0\x10\0\0")
    client.send(frames.frame(frames.DATA, 0, 1, b"\1") * 20_000)
    assert not client.transport.reading
    assert client.link.h2.has_more
    other = Client(front)
    other.call(1, b"", b"Health")
    assert status(other.read(), 1) == b"0"
    async with asyncio.timeout(10):
        while not client.transport.reading:  # noqa: ASYNC110 - it is the loop's turns that count
            await asyncio.sleep(0)
    assert client.link.h2.streams[1].size == 20_005
    other.link.connection_lost(None)


async def test_a_pause_during_a_long_read_does_not_lose_the_rest(client: Client) -> None:
    client.head(1, b"StreamPredict")
    client.send(frames.frame(frames.DATA, 0, 1, b"\0") * 20_000)
    client.link.pause_writing()
    for _ in range(5):
        await asyncio.sleep(0)
    assert client.link.h2.has_more
    client.link.resume_writing()
    async with asyncio.timeout(10):
        while not client.transport.reading:  # noqa: ASYNC110 - it is the loop's turns that count
            await asyncio.sleep(0)
    assert not client.link.h2.has_more
