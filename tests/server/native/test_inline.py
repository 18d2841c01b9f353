"""Requests that come alone: answered within the read that brought them, and right in every way."""

from __future__ import annotations

from pathlib import Path
from time import time

import numpy as np
import pytest

from common.schema import CORE_1
from server.core.models import Repository
from server.core.predictor import BoundBuffers
from server.http2 import frames
from server.native.front import NativeFront
from tests.server.bundles import Logistic, rows, write_bundle
from tests.server.http2.peer import message
from tests.server.native.calls import a_stream, answers, frame, request, status
from tests.server.native.conftest import Client, Clock
from volcast.v1 import PredictRequest, PredictResponse, StreamPredictResponse


async def learned(client: Client, wanted: PredictRequest | None = None) -> None:
    """The form of a request is remembered after the first of them."""
    client.call(1, (wanted or request()).SerializeToString())
    await client.ended(1)


def probabilities(raw: bytes) -> list[float]:
    return list(PredictResponse.FromString(raw).probabilities)


async def test_a_lone_call_has_its_answer_within_the_read_that_brought_it(front: NativeFront, client: Client) -> None:
    await learned(client)
    for n, stream in enumerate(range(3, 13, 2)):
        client.call(stream, request(seed=n).SerializeToString())
        got = client.read()  # no turn of the loop in between
        (raw,) = answers(got, stream)
        answer = PredictResponse.FromString(raw)
        np.testing.assert_allclose(answer.probabilities, Logistic(1).predict(rows(1, n)))
        assert (answer.model_name, answer.model_version, answer.threshold) == ("volatility", "1", 0.5)
        assert answer.queue_ns >= 0
        assert answer.compute_ns > 0
        assert status(got, stream) == b"0"
    assert front.serving.metrics.totals() == {"requests": 6, "failed": 0, "rows": 6}
    assert client.link.h2.open_calls == 0


async def test_a_lone_frame_has_its_answer_within_the_read_that_brought_it(front: NativeFront, client: Client) -> None:
    a_stream(client)
    client.data(1, frame(1, request()))
    await client.until(lambda got: len(answers(got, 1)) == 1)
    for number in (0, 1, 127, 128, 2**40, 2**63 - 1):
        client.data(1, frame(number, request(seed=number % 97)))
        (raw,) = answers(client.read(), 1)
        reply = StreamPredictResponse.FromString(raw)
        assert reply.frame_id == number
        np.testing.assert_allclose(reply.response.probabilities, Logistic(1).predict(rows(1, number % 97)))
    assert front.serving.metrics.totals() == {"requests": 7, "failed": 0, "rows": 7}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
async def test_a_value_at_fault_in_a_lone_request_is_told_its_caller(client: Client, value: float) -> None:
    await learned(client)
    bad = request()
    bad.packed.values = np.array([*[1.0] * (len(CORE_1) - 1), value]).tobytes()
    client.call(3, bad.SerializeToString())
    assert status(await client.ended(3), 3) == b"3"
    a_stream(client, 5)
    client.data(5, frame(7, request()))
    client.data(5, frame(8, bad))
    client.data(5, frame(9, request(seed=4)))
    got = await client.until(lambda got: len(answers(got, 5)) == 3)
    replies = [StreamPredictResponse.FromString(raw) for raw in answers(got, 5)]
    assert [reply.frame_id for reply in replies] == [7, 8, 9]
    assert [reply.WhichOneof("result") for reply in replies] == ["response", "error", "response"]


async def test_values_whose_sum_overflows_are_finite_all_the_same(client: Client) -> None:
    await learned(client)
    large = request()
    large.packed.values = np.array([0.0, 0.0, *[1e308] * 2, *[0.0] * (len(CORE_1) - 4)]).tobytes()
    client.call(3, large.SerializeToString())
    assert status(await client.ended(3), 3) == b"0"


async def test_the_last_half_close_of_a_lone_frame_ends_its_stream(client: Client) -> None:
    a_stream(client)
    client.data(1, frame(1, request()))
    await client.until(lambda got: len(answers(got, 1)) == 1)
    client.data(1, frame(2, request()), frames.END_STREAM)
    got = await client.ended(1)
    assert len(answers(got, 1)) == 1
    assert status(got, 1) == b"0"


async def test_half_a_frame_waits_for_its_other_half(client: Client) -> None:
    a_stream(client)
    client.data(1, frame(1, request()))
    await client.until(lambda got: len(answers(got, 1)) == 1)
    whole = frame(2, request(seed=2))
    client.data(1, whole[:50])
    assert answers(client.read(), 1) == []
    client.data(1, whole[50:])
    got = await client.until(lambda got: len(answers(got, 1)) == 1)
    assert StreamPredictResponse.FromString(answers(got, 1)[0]).frame_id == 2


async def test_a_lone_call_without_time_is_not_computed(client: Client, clock: Clock) -> None:
    await learned(client)
    client.head(3, b"Predict", (b"grpc-timeout", b"0n"))
    client.data(3, b"\0" + len(request().SerializeToString()).to_bytes(4, "big") + request().SerializeToString(), 1)
    assert status(await client.ended(3), 3) == b"4"


async def test_a_lone_call_is_answered_by_the_version_that_is_held_now(
    tmp_path: Path, front: NativeFront, client: Client
) -> None:
    await learned(client)
    client.call(3, request().SerializeToString())
    client.read()
    newer = Repository("volatility", time)
    write_bundle(tmp_path, version="2", seed=2)
    newer.load(tmp_path)
    snapshot, front.serving.plane.repository.snapshot = front.serving.plane.repository.snapshot, newer.snapshot
    try:
        client.call(5, request().SerializeToString())
        (raw,) = answers(client.read(), 5)
    finally:
        front.serving.plane.repository.snapshot = snapshot
    assert PredictResponse.FromString(raw).model_version == "2"
    np.testing.assert_allclose(probabilities(raw), Logistic(2).predict(rows(1)))
    client.call(7, request().SerializeToString())
    (raw,) = answers(client.read(), 7)
    assert PredictResponse.FromString(raw).model_version == "1"


async def test_whoever_waits_is_not_overtaken(front: NativeFront, client: Client) -> None:
    await learned(client)
    client.call(3, request(3).SerializeToString())  # three rows, not known yet: it waits for the next turn
    client.call(5, request(seed=5).SerializeToString())
    assert answers(client.read(), 5) == []
    got = await client.ended(5)
    assert answers(got, 3)
    np.testing.assert_allclose(probabilities(answers(got, 5)[0]), Logistic(1).predict(rows(1, 5)))


async def test_buffers_are_not_shared_by_answers(front: NativeFront) -> None:
    """The next run writes over what the last one gave: what is kept must be a copy."""
    predictor = front.serving.plane.repository.snapshot.labelled["volatility", "stable"].predictor
    first = predictor.raw_bound(rows(5, 1))
    second = predictor.raw_bound(rows(5, 2))
    np.testing.assert_allclose(first, Logistic(1).predict(rows(5, 1)))
    np.testing.assert_allclose(second, Logistic(1).predict(rows(5, 2)))
    bound: BoundBuffers = predictor.bind(1)
    assert not bound.fill(np.full(len(CORE_1), np.nan).tobytes())
    assert bound.fill(rows(1, 3).tobytes())
    bound.run()
    assert bound.probability == pytest.approx(Logistic(1).predict(rows(1, 3))[0])


async def test_a_call_whose_window_grows_before_its_message_comes_is_a_short_one(client: Client) -> None:
    """As gRPC's own clients send it: headers, room for the answer, the message."""
    await learned(client)
    client.head(3, b"Predict")
    client.send(frames.window_update(3, 5))
    assert client.link.h2.streams == {}
    client.data(3, message(request().SerializeToString()), frames.END_STREAM)
    assert len(answers(client.read(), 3)) == 1
    assert client.link.h2._extra_credit == {}


async def test_the_room_given_before_the_message_is_there_for_the_answer(client: Client) -> None:
    await learned(client)
    client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 10}))
    client.head(3, b"Predict")
    client.send(frames.window_update(3, 10))
    client.send(frames.window_update(3, 10))
    client.data(3, message(request().SerializeToString()), frames.END_STREAM)
    got = client.read()
    assert sum(len(sent.payload) for sent in got if sent.kind == frames.DATA) == 30
    client.send(frames.window_update(3, 100))
    got += await client.ended(3)
    assert len(answers(got, 3)) == 1
    assert client.link.h2._extra_credit == {}


@pytest.mark.parametrize(("increment", "code"), [(0, frames.ErrorCode.PROTOCOL_ERROR), (2**31 - 1, 3)])
async def test_a_window_that_cannot_grow_so_ends_the_call(client: Client, increment: int, code: int) -> None:
    await learned(client)
    client.head(3, b"Predict")
    client.send(frames.window_update(3, increment))
    assert [sent.payload[-1] for sent in client.read() if sent.kind == frames.RST_STREAM] == [code]


async def test_calls_given_up_leave_nothing_of_their_windows(client: Client) -> None:
    await learned(client)
    client.head(3, b"Predict")
    client.send(frames.window_update(3, 5))
    client.send(frames.rst_stream(3, frames.ErrorCode.CANCEL))
    client.head(5, b"Predict")
    client.send(frames.window_update(5, 5))
    client.link.connection_lost(None)
    assert client.link.h2._extra_credit == {}
