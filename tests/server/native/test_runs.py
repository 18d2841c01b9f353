"""Many similar requests at once: responses equal those to single requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.schema import CORE_1
from server.core.batcher import Work
from server.http2 import frames
from server.http2.stream import PREFIX
from server.native.front import NativeFront
from server.native.unary import RunReplies
from tests.server.bundles import Logistic, rows
from tests.server.http2.peer import Frame, block, message
from tests.server.native.calls import a_stream, answers, frame, request, status
from tests.server.native.conftest import SERVICE, Client, Clock
from volcast.v1 import PredictRequest, PredictResponse, StreamPredictResponse

MANY = 40


def known(client: Client, wanted: PredictRequest, *extra: tuple[bytes, bytes]) -> bytes:
    """A call's header block and a request's form as both are remembered after the first of them."""
    client.head(1, b"Predict", *extra)
    client.data(1, message(wanted.SerializeToString()), frames.END_STREAM)
    return block(SERVICE + b"Predict", *extra)


def calls(head: bytes, wanted: list[PredictRequest], first: int = 3) -> bytes:
    sent = []
    for number, predict in enumerate(wanted):
        stream = first + 2 * number
        sent.append(frames.frame(frames.HEADERS, 4, stream, head))
        sent.append(frames.frame(frames.DATA, frames.END_STREAM, stream, message(predict.SerializeToString())))
    return b"".join(sent)


def ends(got: list[Frame]) -> int:
    return sum(sent.flags & 1 for sent in got if sent.kind == frames.HEADERS)


def queued(front: NativeFront, monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """The work items that reach the batcher from now on."""
    seen: list[Work] = []
    put = front.serving.batches.put

    def spy(work: Work) -> None:
        seen.append(work)
        put(work)

    monkeypatch.setattr(front.serving.batches, "put", spy)
    return seen


@pytest.mark.parametrize(("count", "dtype"), [(1, "<f8"), (1, "<f4"), (5, "<f8")])
async def test_calls_in_a_block_get_each_their_own_answer(
    front: NativeFront, client: Client, monkeypatch: pytest.MonkeyPatch, count: int, dtype: str
) -> None:
    head = known(client, request(count, 0, dtype))
    await client.ended(1)
    seen = queued(front, monkeypatch)
    client.send(calls(head, [request(count, seed, dtype) for seed in range(MANY)]))
    got = await client.until(lambda got: ends(got) == MANY)
    assert [work.calls for work in seen] == [MANY]
    for seed in range(MANY):
        stream = 3 + 2 * seed
        assert status(got, stream) == b"0"
        (raw,) = answers(got, stream)
        answer = PredictResponse.FromString(raw)
        expected = Logistic(1).predict(rows(count, seed).astype(dtype).astype(np.float64))
        np.testing.assert_allclose(answer.probabilities, expected)
        assert (answer.model_name, answer.model_version, answer.threshold) == ("volatility", "1", 0.5)
    assert client.link.h2.open_calls == 0
    assert front.serving.batches.batcher.calls == 0


async def test_calls_of_many_rows_are_runs_and_are_not_parsed(
    front: NativeFront, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = known(client, request(100))
    await client.ended(1)
    seen = queued(front, monkeypatch)
    client.send(calls(head, [request(100, seed) for seed in range(20)]))
    got = await client.until(lambda got: ends(got) == 20)
    assert all(isinstance(work.replies, RunReplies) for work in seen)
    assert sum(work.calls for work in seen) == 20
    for seed in range(20):
        (raw,) = answers(got, 3 + 2 * seed)
        expected = Logistic(1).predict(rows(100, seed))
        np.testing.assert_allclose(PredictResponse.FromString(raw).probabilities, expected)


async def test_a_row_at_fault_in_a_block_fails_alone(front: NativeFront, client: Client) -> None:
    head = known(client, request())
    await client.ended(1)
    wanted = [request(seed=seed) for seed in range(MANY)]
    wanted[7].packed.values = np.array([*[1.0] * (len(CORE_1) - 1), np.nan]).tobytes()
    client.send(calls(head, wanted))
    got = await client.until(lambda got: ends(got) == MANY)
    states = [status(got, 3 + 2 * number) for number in range(MANY)]
    assert states == [b"3" if number == 7 else b"0" for number in range(MANY)]


async def test_a_request_of_another_form_in_a_block_is_what_it_is(client: Client) -> None:
    head = known(client, request())
    await client.ended(1)
    wanted = [request(seed=seed) for seed in range(MANY)]
    wanted[7].packed.schema_hash = "0" * len(CORE_1.hash)
    client.send(calls(head, wanted))
    got = await client.until(lambda got: ends(got) == MANY)
    assert [number for number in range(MANY) if status(got, 3 + 2 * number) != b"0"] == [7]


async def test_calls_of_a_block_given_up_before_the_run_are_answered_by_nothing(client: Client) -> None:
    head = known(client, request())
    await client.ended(1)
    client.send(
        calls(head, [request(seed=seed) for seed in range(MANY)]), frames.rst_stream(5, frames.ErrorCode.CANCEL)
    )
    got = await client.until(lambda got: ends(got) == MANY - 1)
    assert {sent.stream for sent in got if sent.kind == frames.HEADERS} == {3 + 2 * n for n in range(MANY)} - {5}
    assert client.link.h2.open_calls == 0


@pytest.mark.parametrize("count", [3, MANY])
async def test_cancelled_calls_of_a_run_are_not_counted_as_answered(
    front: NativeFront, client: Client, count: int
) -> None:
    head = known(client, request())
    await client.ended(1)
    sent = calls(head, [request(seed=seed) for seed in range(count)])
    client.send(sent, frames.rst_stream(3, frames.ErrorCode.CANCEL), frames.rst_stream(5, frames.ErrorCode.CANCEL))
    await client.until(lambda got: ends(got) == count - 2)
    totals = front.serving.metrics.totals()
    assert totals["requests"] == 1 + count - 2
    assert totals["rows"] == 1 + count - 2


async def test_cancelled_calls_of_a_run_of_several_templates_are_not_scored(front: NativeFront, client: Client) -> None:
    for stream, rows_of_call in ((1, 1), (3, 3)):
        client.call(stream, request(rows_of_call).SerializeToString())
        await client.ended(stream)
    head = block(SERVICE + b"Predict")
    wanted = [request(1 + 2 * (number % 2), number) for number in range(8)]
    before = front.serving.metrics.totals()["rows"]
    client.send(
        calls(head, wanted, 5), *(frames.rst_stream(5 + 2 * number, frames.ErrorCode.CANCEL) for number in (0, 3))
    )
    got = await client.until(lambda got: ends(got) == 6)
    for number, asked in enumerate(wanted):
        if number not in (0, 3):
            (raw,) = answers(got, 5 + 2 * number)
            expected = Logistic(1).predict(rows(asked.packed.row_count, number))
            np.testing.assert_allclose(PredictResponse.FromString(raw).probabilities, expected)
    assert front.serving.metrics.totals()["rows"] - before == 16 - 4


@pytest.mark.parametrize(("deadline", "work_items"), [((), [MANY]), ((b"grpc-timeout", b"10S"), [1] * MANY)])
async def test_calls_in_several_frames_share_a_run_unless_they_have_a_deadline(
    front: NativeFront, client: Client, monkeypatch: pytest.MonkeyPatch, deadline: Any, work_items: list[int]
) -> None:
    """The first frame ends within the prefix: a REQUEST event. A deadline counts from the call's own headers."""
    extra = (deadline,) if deadline else ()
    head = known(client, request(), *extra)
    await client.ended(1)
    seen = queued(front, monkeypatch)
    sent = b""
    for number in range(MANY):
        raw, stream = message(request(seed=number).SerializeToString()), 3 + 2 * number
        sent += frames.frame(frames.HEADERS, 4, stream, head) + frames.frame(frames.DATA, 0, stream, raw[:3])
        sent += frames.frame(frames.DATA, frames.END_STREAM, stream, raw[3:])
    client.send(sent)
    got = await client.until(lambda got: ends(got) == MANY)
    assert [work.calls for work in seen] == work_items
    for number in range(MANY):
        (raw,) = answers(got, 3 + 2 * number)
        np.testing.assert_allclose(PredictResponse.FromString(raw).probabilities, Logistic(1).predict(rows(1, number)))


async def test_a_block_whose_deadline_passes_is_not_computed(client: Client, clock: Clock) -> None:
    timeout = (b"grpc-timeout", b"50m")
    head = known(client, request(), timeout)
    await client.ended(1)
    client.send(calls(head, [request()] * MANY))
    clock.ahead_ns += 60_000_000
    got = await client.until(lambda got: ends(got) == MANY)
    assert {status(got, 3 + 2 * number) for number in range(MANY)} == {b"4"}


async def test_calls_of_a_block_beyond_the_queue_are_refused_at_once(front: NativeFront, client: Client) -> None:
    head = known(client, request())
    await client.ended(1)
    room = front.serving.batches.batcher.room
    client.send(calls(head, [request()] * (room + MANY)))
    refused = client.read()
    assert ends(refused) == MANY
    assert {status(refused, 3 + 2 * (room + number)) for number in range(MANY)} == {b"8"}
    got = await client.until(lambda got: ends(got) == room)
    assert {status(got, 3 + 2 * number) for number in range(room)} == {b"0"}
    assert front.serving.batches.batcher.room == room


async def test_answers_of_a_block_wait_for_the_callers_window(client: Client) -> None:
    head = known(client, request())
    await client.ended(1)
    client.link.h2._send_window = 300
    client.send(calls(head, [request(seed=seed) for seed in range(MANY)]))
    first = await client.until(lambda got: ends(got) >= 5)
    assert ends(first) < MANY
    client.send(frames.window_update(0, 2**20))
    await client.until(lambda got: ends(got) == MANY - ends(first))
    assert client.link.h2.open_calls == 0


async def test_frames_alike_are_answered_in_order_each_with_its_id(
    front: NativeFront, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_stream(client)
    client.data(1, frame(1, request()))
    await client.until(lambda got: len(answers(got, 1)) == 1)
    seen = queued(front, monkeypatch)
    ids = [*range(100, 128), *range(128, 160), *range(16_380, 16_390), 2**40]
    client.data(1, b"".join([frame(frame_id, request(seed=frame_id % 100)) for frame_id in ids]))
    got = await client.until(lambda got: len(answers(got, 1)) == len(ids))
    replies = [StreamPredictResponse.FromString(raw) for raw in answers(got, 1)]
    assert [reply.frame_id for reply in replies] == ids
    for reply in replies:
        np.testing.assert_allclose(reply.response.probabilities, Logistic(1).predict(rows(1, reply.frame_id % 100)))
    assert 2 <= len(seen) < 10


async def test_a_frame_at_fault_among_many_alike_is_an_error_in_the_stream(client: Client) -> None:
    a_stream(client)
    client.data(1, frame(1, request()))
    await client.until(lambda got: len(answers(got, 1)) == 1)
    bad = request()
    bad.packed.values = np.array([*[1.0] * (len(CORE_1) - 1), np.inf]).tobytes()
    client.data(1, b"".join([frame(10 + n, bad if n == 20 else request(seed=n)) for n in range(MANY)]))
    got = await client.until(lambda got: len(answers(got, 1)) == MANY)
    replies = [StreamPredictResponse.FromString(raw) for raw in answers(got, 1)]
    assert [reply.frame_id for reply in replies] == [10 + n for n in range(MANY)]
    assert [n for n, reply in enumerate(replies) if reply.WhichOneof("result") == "error"] == [20]


async def test_what_only_looks_like_an_id_is_not_taken_for_one(client: Client) -> None:
    """Two fields that fill the place of a longer id: the last one counts, as protobuf says."""
    a_stream(client)
    client.data(1, frame(300, request()))
    await client.until(lambda got: len(answers(got, 1)) == 1)
    whole = frame(300, request())
    strange = whole[:PREFIX] + b"\x08\x05" + whole[PREFIX + 2 :]  # an id of one byte, then a stray byte
    client.data(1, whole * 20 + strange)
    got = await client.until(lambda got: len(answers(got, 1)) == 21)
    replies = [StreamPredictResponse.FromString(raw) for raw in answers(got, 1)]
    assert [reply.WhichOneof("result") for reply in replies] == ["response"] * 20 + ["error"]
