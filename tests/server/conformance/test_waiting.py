"""Calls that wait for the model: a full queue, deadlines, callers who go, what shares a batch."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tests.processes import await_true
from tests.server.bundles import OTHER_SCHEMA, rows
from tests.server.conformance.calls import (
    RETRIES,
    SERVICE,
    TIMEOUT_S,
    assert_scored,
    by_name,
    call,
    channel_to,
    code_of,
    of_model,
    packed,
    refused,
)
from tests.server.conformance.conftest import MAX_QUEUE, MAX_STREAMS, PATIENCE_S
from tests.server.conformance.wire import Wire
from tests.server.processes import Process
from volcast.v1 import PredictRequest, PredictResponse, StreamPredictRequest, StreamPredictResponse

PREDICT = SERVICE + "Predict"
STREAM = SERVICE + "StreamPredict"


def begin(channel: grpc.Channel, request: PredictRequest, timeout_s: float = TIMEOUT_S) -> Any:
    return channel.unary_unary(PREDICT, bytes, bytes).future(request.SerializeToString(), timeout=timeout_s)


def scored(process: Process, name: str, version: str) -> float:
    return process.metrics().get(f'volcast_server_rows_total{{model="{name}",version="{version}"}}', 0.0)


def predict_when_there_is_room(channel: grpc.Channel) -> None:
    """Waits for room: a cancelled call keeps its place in the queue until the next batch, at most."""
    answers: list[bytes] = []

    def asked() -> bool:
        pending = begin(channel, packed(rows(1)))
        if code_of(pending) is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return False
        answers.append(pending.result())
        return True

    await_true(asked)
    assert_scored(PredictResponse.FromString(answers[0]), 3, rows(1))


def pinned(version: str, seed: int = 0) -> PredictRequest:
    return of_model(packed(rows(1, seed)), version=version)


def of_other(count: int, seed: int) -> PredictRequest:
    return of_model(packed(rows(count, seed), schema_hash=OTHER_SCHEMA.hash), "other")


def test_a_call_that_finds_the_queue_full_is_refused_at_once_with_a_retry_hint(waiting: grpc.Channel) -> None:
    calls = [begin(waiting, packed(rows(1, seed))) for seed in range(2 * MAX_QUEUE)]
    full = [pending for pending in calls if code_of(pending) is not grpc.StatusCode.OK]
    assert len(full) == MAX_QUEUE
    for pending in full:
        assert pending.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = status_pb2.Status.FromString(dict(pending.trailing_metadata())["grpc-status-details-bin"])
        assert status.code == pending.code().value[0]
        assert status.message == pending.details() == "too many calls are waiting for the model"
        retry = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert 0 < retry.retry_delay.ToMilliseconds() < 1000
    for seed, pending in enumerate(calls):
        if pending not in full:
            assert_scored(PredictResponse.FromString(pending.result()), 3, rows(1, seed))


def test_a_refused_call_ends_before_the_calls_that_wait_ahead_of_it(waiting: grpc.Channel) -> None:
    ended: list[int] = []
    calls = [begin(waiting, packed(rows(1))) for _ in range(MAX_QUEUE + 1)]
    for index, pending in enumerate(calls):
        pending.add_done_callback(lambda _, index=index: ended.append(index))
    codes = [code_of(pending) for pending in calls]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 1
    assert ended[0] == codes.index(grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_a_deadline_that_passes_while_a_call_waits_ends_it_and_nothing_is_computed(patient: Process) -> None:
    before = scored(patient, "volatility", "1")
    with Wire(patient.address) as wire:
        wire.request(1, PREDICT, pinned("1").SerializeToString(), (("grpc-timeout", "50m"),))
        wire.request(3, PREDICT, packed(rows(1)).SerializeToString())
        late, messages = wire.answer(1)
        assert messages == []
        assert late.get("grpc-status") == "4" or "reset" in late
    with channel_to(patient.address) as channel:
        predict_when_there_is_room(channel)  # a batch later
    assert scored(patient, "volatility", "1") == before


def test_a_call_ends_when_its_deadline_passes(waiting: grpc.Channel) -> None:
    began = time.monotonic()
    assert code_of(begin(waiting, packed(rows(1)), timeout_s=0.05)) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < PATIENCE_S + 5


def test_a_deadline_of_zero_is_never_computed(patient: Process) -> None:
    before = scored(patient, "volatility", "1")
    with Wire(patient.address) as wire:
        wire.request(1, PREDICT, pinned("1").SerializeToString(), (("grpc-timeout", "0n"),))
        ended, messages = wire.answer(1)
        assert messages == []
        assert ended.get("grpc-status") == "4" or "reset" in ended
    with channel_to(patient.address) as channel:
        predict_when_there_is_room(channel)
    assert scored(patient, "volatility", "1") == before


def test_a_call_that_is_cancelled_while_it_waits_is_not_computed(patient: Process, waiting: grpc.Channel) -> None:
    before = scored(patient, "volatility", "1")
    gone = [begin(waiting, pinned("1", seed)) for seed in range(MAX_QUEUE)]
    call(waiting, "/grpc.health.v1.Health/Check", b"")  # behind them on the wire: they have arrived
    for pending in gone:
        pending.cancel()
    predict_when_there_is_room(waiting)
    assert scored(patient, "volatility", "1") == before


def test_cancelled_calls_free_their_places(waiting: grpc.Channel) -> None:
    """More than the connection, and than the queue, have room for."""
    for _ in range(MAX_STREAMS // MAX_QUEUE + 1):
        gone = [begin(waiting, packed(rows(1, seed))) for seed in range(MAX_QUEUE)]
        call(waiting, "/grpc.health.v1.Health/Check", b"")
        for pending in gone:
            pending.cancel()
        predict_when_there_is_room(waiting)


def test_cancelled_streams_free_their_places(patient: Process) -> None:
    """A connection has room for MAX_STREAMS: if one stayed, those at the end would be refused."""
    frame = StreamPredictRequest(frame_id=1, request=packed(rows(1))).SerializeToString()
    ids = iter(range(1, 2**31, 2))
    with Wire(patient.address) as wire:
        for _ in range(10):
            for stream in itertools.islice(ids, MAX_STREAMS // 4):
                wire.open_call(stream, STREAM)
                wire.message(stream, frame, end=False)
                wire.reset(stream)
            check = next(ids)
            wire.request(check, "/grpc.health.v1.Health/Check", b"")
            assert wire.answer(check)[0]["grpc-status"] == "0"
        last = next(ids)
        wire.request(last, STREAM, frame)
        ended, (message,) = wire.answer(last)
    assert ended["grpc-status"] == "0"
    assert_scored(StreamPredictResponse.FromString(message).response, 3, rows(1))


def test_a_connection_that_breaks_takes_its_calls_with_it(patient: Process) -> None:
    before = scored(patient, "volatility", "1")
    for _ in range(5):
        with Wire(patient.address) as wire:
            for index in range(3):
                wire.request(2 * index + 1, PREDICT, pinned("1", index).SerializeToString())
            wire.request(7, "/grpc.health.v1.Health/Check", b"")
            assert wire.answer(7)[0]["grpc-status"] == "0"
    with channel_to(patient.address) as channel:
        predict_when_there_is_room(channel)
    assert scored(patient, "volatility", "1") == before


def test_the_deadline_of_a_stream_ends_it_though_nobody_sends(patient: Process) -> None:
    with Wire(patient.address) as wire:
        wire.open_call(1, STREAM, (("grpc-timeout", "50m"),))
        ended, messages = wire.answer(1)
    assert messages == []
    assert ended.get("grpc-status") == "4" or "reset" in ended


def test_a_stream_is_answered_until_its_deadline_and_then_ends_as_exceeded(waiting: grpc.Channel) -> None:
    frame = StreamPredictRequest(frame_id=1, request=packed(rows(1))).SerializeToString()

    def frames() -> Iterator[bytes]:
        yield frame
        while True:
            time.sleep(PATIENCE_S / 4)
            yield frame

    answers = waiting.stream_stream(STREAM, bytes, bytes)(frames(), timeout=3 * PATIENCE_S)
    assert next(answers)
    with pytest.raises(grpc.RpcError) as raised:
        list(answers)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_models_and_schemas_that_share_a_batch_are_never_mixed(patient: Process) -> None:
    """Each caller gets his own rows' probabilities, of his own model, in whatever form they came."""
    asked = []
    for seed in range(MAX_QUEUE // 4):
        matrix = rows(1 + seed % 3, seed)
        asked += [
            (3, matrix, packed(matrix)),
            (1, matrix, of_model(packed(matrix), version="1")),
            (4, matrix, of_other(1 + seed % 3, seed)),
            (2, matrix, of_model(by_name(matrix), "jumps")),
        ]
    with channel_to(patient.address) as first, channel_to(patient.address) as second:
        for _ in range(3):  # the second time their forms are known
            calls = [begin((first, second)[index % 2], request) for index, (_, _, request) in enumerate(asked)]
            for (seed, matrix, _), under_way in zip(asked, calls, strict=True):
                assert_scored(PredictResponse.FromString(under_way.result()), seed, matrix)


def test_a_wrong_request_does_not_fail_its_batch(waiting: grpc.Channel) -> None:
    good = [begin(waiting, packed(rows(2, seed))) for seed in range(4)]
    refused(waiting, packed([[float("nan")] * 11]))
    refused(waiting, packed(rows(1), schema_hash=OTHER_SCHEMA.hash))
    refused(waiting, of_model(packed(rows(1)), "other"))
    for seed, pending in enumerate(good):
        assert_scored(PredictResponse.FromString(pending.result()), 3, rows(2, seed))


def test_a_row_without_a_probability_does_not_fail_its_batch(waiting: grpc.Channel) -> None:
    good = [begin(waiting, of_model(packed(rows(1, seed)), "jumps")) for seed in range(4)]
    beyond = begin(waiting, of_model(packed([[1.7e308] * 11]), "jumps"))
    assert code_of(beyond) is grpc.StatusCode.INVALID_ARGUMENT
    for seed, pending in enumerate(good):
        assert_scored(PredictResponse.FromString(pending.result()), 2, rows(1, seed))


def test_more_calls_than_a_connection_may_have_wait_in_the_client_and_are_all_answered(patient: Process) -> None:
    frame = StreamPredictRequest(frame_id=1, request=packed(rows(1))).SerializeToString()
    with channel_to(patient.address, service_config=RETRIES) as channel:
        streams = [
            channel.stream_stream(STREAM, bytes, bytes)(iter([frame]), timeout=TIMEOUT_S)
            for _ in range(2 * MAX_STREAMS)
        ]
        answers = [StreamPredictResponse.FromString(answer) for stream_ in streams for answer in stream_]
    assert len(answers) == 2 * MAX_STREAMS
    for answer in answers:
        assert_scored(answer.response, 3, rows(1))


def test_a_call_beyond_the_limit_of_a_connection_is_refused_as_retryable(patient: Process) -> None:
    with Wire(patient.address) as wire:
        for index in range(MAX_STREAMS + 1):
            wire.open_call(2 * index + 1, STREAM)
        ended, messages = wire.answer(2 * MAX_STREAMS + 1)
    assert (ended, messages) == ({"reset": "7"}, [])  # REFUSED_STREAM
