"""What becomes of calls, streams and links when something goes wrong beside the protocol."""

from __future__ import annotations

import asyncio
import warnings

import numpy as np
import pytest

from common.http2 import frames
from common.schema import CORE_1
from server.core.arrays import Matrix, Vector
from server.native.front import NativeFront
from server.native.scoring_stream import ScoringStreamCall
from server.native.streaming import StreamingCall
from tests.server.bundles import Logistic, rows
from tests.server.http2.peer import block, message
from tests.server.native.calls import WATCH, a_stream, answers, frame, request, status, whole
from tests.server.native.conftest import SERVICE, Client, Clock
from volcast.v1 import (
    PredictResponse,
    StreamPredictRequest,
    StreamPredictResponse,
)


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
    assert not front.serving.templates.by_length


@pytest.mark.parametrize("number", [1, 42, 300, 2**40])
async def test_a_frame_that_cannot_be_read_keeps_its_id(client: Client, number: int) -> None:
    a_stream(client)
    raw = StreamPredictRequest(frame_id=number).SerializeToString() + b"\x12\x05abcde"
    client.data(1, message(raw))
    got = await client.until(lambda got: len(answers(got, 1)) == 1)
    (reply,) = [StreamPredictResponse.FromString(raw) for raw in answers(got, 1)]
    assert (reply.frame_id, reply.error.code) == (number, 3)
