"""What becomes of calls, streams and links when something goes wrong beside the protocol."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import numpy as np
import pytest

from common.http2 import frames
from common.schema import CORE_1
from server.core.arrays import Matrix, Vector
from server.native.front import NativeFront
from server.native.scoring_stream import ScoringStreamCall
from server.native.streaming import StreamingCall
from tests.server.bundles import Logistic, rows
from tests.server.http2.peer import Frame, block, message
from tests.server.native.conftest import SERVICE, Client, Clock, Transport
from volcast.v1 import (
    DATA_TYPE_FLOAT32,
    DATA_TYPE_FLOAT64,
    PackedRows,
    PredictRequest,
    PredictResponse,
    StreamPredictRequest,
    StreamPredictResponse,
)

WATCH = b"/grpc.health.v1.Health/Watch"


def request(count: int = 1, seed: int = 0, dtype: str = "<f8") -> PredictRequest:
    values = rows(count, seed).astype(dtype).tobytes()
    data_type = DATA_TYPE_FLOAT64 if dtype == "<f8" else DATA_TYPE_FLOAT32
    packed = PackedRows(schema_hash=CORE_1.hash, data_type=data_type, row_count=count, values=values)
    return PredictRequest(packed=packed)


def frame(number: int, of: PredictRequest) -> bytes:
    return message(StreamPredictRequest(frame_id=number, request=of).SerializeToString())


def status(got: list[Frame], stream: int) -> bytes:
    """grpc-status as it stands in the last block, whose strings are literal."""
    last = [sent_frame for sent_frame in got if sent_frame.stream == stream and sent_frame.kind == frames.HEADERS][
        -1
    ].payload
    at = last.index(b"grpc-status") + len(b"grpc-status")
    return last[at + 1 : at + 1 + last[at]]


def answers(got: list[Frame], stream: int) -> list[bytes]:
    body = b"".join(
        sent_frame.payload for sent_frame in got if sent_frame.stream == stream and sent_frame.kind == frames.DATA
    )
    messages, at = [], 0
    while at + 5 <= len(body):
        size = int.from_bytes(body[at + 1 : at + 5], "big")
        messages.append(body[at + 5 : at + 5 + size])
        at += 5 + size
    return messages


def a_stream(client: Client, stream: int = 1, *extra: tuple[bytes, bytes]) -> ScoringStreamCall:
    client.head(stream, b"StreamPredict", *extra)
    call = client.link.h2.streams[stream].call
    assert isinstance(call, ScoringStreamCall)
    return call


async def test_the_lane_and_the_ordinary_way_give_the_same_probabilities(client: Client) -> None:
    wanted = request(3)
    for stream in (1, 3, 5):  # parsed and learned; recognized as a stream; recognized on the short way
        client.call(stream, wanted.SerializeToString())
        (raw,) = answers(await client.ended(stream), stream)
        answer = PredictResponse.FromString(raw)
        np.testing.assert_allclose(answer.probabilities, Logistic(1).predict(rows(3)))
        assert (answer.model_name, answer.model_version, answer.threshold) == ("volatility", "1", 0.5)


async def test_a_row_at_fault_in_a_burst_fails_alone(client: Client) -> None:
    client.call(1, request().SerializeToString())
    await client.ended(1)
    bad = request()
    bad.packed.values = np.array([*[1.0] * (len(CORE_1) - 1), np.nan]).tobytes()
    for stream, predict in ((3, request(seed=1)), (5, bad), (7, request(seed=2))):
        client.call(stream, predict.SerializeToString())
    got = await client.until(
        lambda got: sum(sent_frame.flags & 1 for sent_frame in got if sent_frame.kind == frames.HEADERS) == 3
    )
    assert [status(got, stream) for stream in (3, 5, 7)] == [b"0", b"3", b"0"]


async def test_a_signalling_nan_in_a_recognized_request_is_refused_without_a_warning(client: Client) -> None:
    client.call(1, request(dtype="<f4").SerializeToString())
    await client.ended(1)
    bad = request(dtype="<f4")
    bad.packed.values = (0x7F800001).to_bytes(4, "little") * len(CORE_1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.call(3, bad.SerializeToString())
        assert status(await client.ended(3), 3) == b"3"


async def test_a_frame_larger_than_the_window_gets_room_while_nothing_is_answered(client: Client) -> None:
    a_stream(client)
    client.send(frames.window_update(1, 2**24))
    whole, sent, window = frame(7, request(20_000)), 0, 256 * 1024
    while sent < len(whole):
        size = min(window, 16_384, len(whole) - sent)
        client.data(1, whole[sent : sent + size])
        sent, window = sent + size, window - size
        if not window and sent < len(whole):
            got = await client.until(
                lambda got: any(sent_frame.kind == frames.WINDOW_UPDATE and sent_frame.stream for sent_frame in got)
            )
            window += sum(
                frames.word(sent_frame.payload)
                for sent_frame in got
                if sent_frame.kind == frames.WINDOW_UPDATE and sent_frame.stream
            )
    got = await client.until(lambda got: len(answers(got, 1)) == 1 and len(answers(got, 1)[0]) > 100_000)
    answer = StreamPredictResponse.FromString(answers(got, 1)[0])
    assert (answer.frame_id, len(answer.response.probabilities)) == (7, 20_000)


async def test_frames_before_one_that_cannot_be_read_are_answered(client: Client) -> None:
    call = a_stream(client)
    client.data(1, frame(1, request()) + frame(2, request()) + message(b"", 1))
    got = await client.ended(1)
    assert [StreamPredictResponse.FromString(raw).frame_id for raw in answers(got, 1)] == [1, 2]
    assert status(got, 1) == b"13"
    assert call.ended


async def test_a_stream_that_broke_leaves_no_timer_behind(client: Client) -> None:
    call = a_stream(client, 1, (b"grpc-timeout", b"1H"))
    client.data(1, message(b"", 1))
    await client.ended(1)
    assert call.ended
    assert call._timer is not None
    assert call._timer.cancelled()


async def test_the_deadline_of_a_stream_ends_it(client: Client) -> None:
    a_stream(client, 1, (b"grpc-timeout", b"1n"))
    assert status(await client.ended(1), 1) == b"4"


async def test_a_fault_of_ours_in_one_stream_is_no_others(
    client: Client, front: NativeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = a_stream(client, 1)
    a_stream(client, 3)

    def fails() -> bool:
        raise ZeroDivisionError

    pull = ScoringStreamCall.pull
    monkeypatch.setattr(ScoringStreamCall, "pull", lambda self: fails() if self is broken else pull(self))
    client.data(1, frame(1, request()))
    client.data(3, frame(1, request()))
    got = await client.until(lambda got: bool(answers(got, 3)))
    assert status(got, 1) == b"13"
    assert b"ZeroDivisionError" not in b"".join(sent_frame.payload for sent_frame in got)


async def test_a_lost_link_leaves_nothing_behind(client: Client, front: NativeFront) -> None:
    client.call(1, request().SerializeToString())
    await client.ended(1)
    call = a_stream(client, 3, (b"grpc-timeout", b"1H"))
    client.head(5, b"", path=WATCH)
    client.data(5, message(b""), frames.END_STREAM)
    dialogue = client.link.h2.streams[5].call
    assert isinstance(dialogue, StreamingCall)
    assert dialogue.task is not None
    await client.until(lambda got: bool(answers(got, 5)))
    client.call(7, request().SerializeToString())
    client.data(3, frame(1, request()))
    client.link.connection_lost(None)
    await asyncio.gather(dialogue.task, return_exceptions=True)
    assert dialogue.task.cancelled()
    assert call.ended
    assert client.link.h2.open_calls == 0
    assert not front.connections
    await asyncio.sleep(0)
    assert not front.serving.batches.batcher.calls


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


async def test_a_drain_does_not_cut_a_call_of_the_short_way(client: Client, front: NativeFront) -> None:
    client.call(1, request(2).SerializeToString())
    await client.ended(1)
    client.link.h2.go_away()
    client.call(3, request(2).SerializeToString())
    client.send(frames.frame(frames.PING, frames.ACK, 0, b"draining"))
    front.end_streams(even_busy=False)
    assert not client.transport.closed
    assert status(await client.ended(3), 3) == b"0"
    front.end_streams(even_busy=False)
    assert client.transport.closed


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


async def test_the_loop_spins_while_calls_come_one_by_one(front: NativeFront, client: Client, clock: Clock) -> None:
    front.spinner.spin_ns = 100_000_000  # far longer than the test takes between two calls
    for stream in (1, 3, 5):
        client.call(stream, request().SerializeToString())
        await client.ended(stream)
    assert front.spinner.spinning
    clock.ahead_ns = 10**9
    for _ in range(3):
        await asyncio.sleep(0)
    assert not front.spinner.spinning


def whole(stream: int) -> tuple[bytes, bytes]:
    """A call as one read of the socket brings it."""
    body = message(request().SerializeToString())
    head = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block(SERVICE + b"Predict"))
    return head, frames.frame(frames.DATA, frames.END_STREAM, stream, body)


async def test_the_loop_does_not_spin_for_calls_far_apart_or_for_many_at_once(
    front: NativeFront, client: Client, clock: Clock
) -> None:
    front.spinner.spin_ns = 1_000_000
    for stream in (1, 3, 5):
        clock.ahead_ns += 10**9
        client.send(*whole(stream))
        assert not front.spinner.spinning
    front.spinner.spin_ns = 10**9
    for stream in range(7, 47, 2):
        client.send(*whole(stream))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not front.spinner.spinning


async def test_frames_of_many_rows_are_answered_in_order(client: Client) -> None:
    """However many are put together: a job too large for the loop would be overtaken by the frames behind it."""
    count, many = 300, 5  # four would be more than a batch of this front, and one would be left
    a_stream(client)
    client.data(1, frame(1, request(count)))
    await client.until(lambda got: len(answers(got, 1)) == 1)
    sent = [frame(10 + n, request(count, seed=n)) for n in range(many)]
    for raw in sent:
        for at in range(0, len(raw), frames.FRAME_SIZE):
            client.data(1, raw[at : at + frames.FRAME_SIZE])
    got = await client.until(lambda got: len(answers(got, 1)) == many)
    replies = [StreamPredictResponse.FromString(raw) for raw in answers(got, 1)]
    assert [reply.frame_id for reply in replies] == [10 + n for n in range(many)]
    for n, reply in enumerate(replies):
        np.testing.assert_allclose(reply.response.probabilities, Logistic(1).predict(rows(count, n)))


async def test_frames_whose_burst_fails_are_answered_before_those_behind_it(
    front: NativeFront, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = front.serving.plane.repository.snapshot.labelled["volatility", "stable"].predictor
    whole = predictor.raw_bound

    def with_a_gap(matrix: Matrix) -> Vector:
        """No probability for rows that begin with 7."""
        return np.where(matrix[:, 0] == 7.0, np.nan, whole(matrix))

    monkeypatch.setattr(predictor, "raw_bound", with_a_gap)
    bad = request()
    bad.packed.values = np.array([7.0, *rows(1)[0][1:]]).tobytes()
    named = request(seed=3)
    named.model.name = "volatility"
    a_stream(client)
    client.data(1, frame(1, request()) + frame(2, named))
    await client.until(lambda got: len(answers(got, 1)) == 2)
    sent = [request(seed=1), bad, named, named, request(seed=2), bad, named]
    client.data(1, b"".join([frame(10 + n, predict) for n, predict in enumerate(sent)]))
    got = await client.until(lambda got: len(answers(got, 1)) == len(sent))
    replies = [StreamPredictResponse.FromString(raw) for raw in answers(got, 1)]
    assert [reply.frame_id for reply in replies] == [10 + n for n in range(len(sent))]
    assert [reply.error.code for reply in replies] == [3 if predict is bad else 0 for predict in sent]


@pytest.mark.parametrize("begins", [frames.settings({frames.INITIAL_WINDOW_SIZE: 2**20}), frames.window_update(5, 9)])
async def test_a_refused_call_that_left_the_short_way_is_told_so(
    front: NativeFront, client: Client, begins: bytes
) -> None:
    await_known = request(2)
    client.call(1, await_known.SerializeToString())
    await client.ended(1)
    front.serving.batches.batcher._max_queue = 0
    head = block(SERVICE + b"Predict")
    call = frames.frame(frames.HEADERS, 4, 3, head) + frames.frame(
        frames.DATA, frames.END_STREAM, 3, message(await_known.SerializeToString())
    )
    second = call.replace((3).to_bytes(4, "big"), (5).to_bytes(4, "big"))
    client.send(call + second + begins)
    got = client.read() + (await client.until(lambda got: True))
    assert [status(got, stream) for stream in (3, 5)] == [b"8", b"8"]
    assert client.link.h2.open_calls == 0


async def test_what_is_remembered_of_a_request_is_small(front: NativeFront, client: Client) -> None:
    padded = request().SerializeToString()
    unknown = b"\xfa\x3f\xa0\x1f" + bytes(4000)  # field 1023, which nobody knows
    client.call(1, unknown + padded)
    assert status(await client.ended(1), 1) == b"0"
    assert all(len(form.prefix) < 1100 for form in front.serving.templates.by_length.values())
    assert not front.serving.templates.by_length


@pytest.mark.parametrize("number", [1, 42, 300, 2**40])
async def test_a_frame_that_cannot_be_read_keeps_its_id(client: Client, number: int) -> None:
    a_stream(client)
    raw = StreamPredictRequest(frame_id=number).SerializeToString() + b"\x12\x05abcde"
    client.data(1, message(raw))
    got = await client.until(lambda got: len(answers(got, 1)) == 1)
    (reply,) = [StreamPredictResponse.FromString(raw) for raw in answers(got, 1)]
    assert (reply.frame_id, reply.error.code) == (number, 3)


@pytest.mark.parametrize("part", [b"", b"\0\0\0", message(request().SerializeToString())[:-1]])
async def test_a_unary_call_whose_message_never_arrives_ends_at_its_deadline(client: Client, part: bytes) -> None:
    client.call(1, request().SerializeToString())
    await client.ended(1)
    client.head(3, b"Predict", (b"grpc-timeout", b"20m"))
    client.data(3, part) if part else None
    assert status(await client.ended(3), 3) == b"4"
    assert client.link.h2.open_calls == 0


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
    client.head(7, b"", path=b"/grpc.health.v1.Health/Watch")
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
