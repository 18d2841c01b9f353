"""Streams as they are used: many frames under way, large ones, mixed ones, readers that do not read."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tests.processes import await_true
from tests.server.bundles import OTHER_SCHEMA, rows
from tests.server.conformance.calls import (
    SERVICE,
    TIMEOUT_S,
    assert_scored,
    by_name,
    channel_to,
    frame,
    of_model,
    packed,
    predict,
    stream,
)
from tests.server.conformance.wire import Wire
from tests.server.conftest import MAX_ROWS
from tests.server.processes import Process
from volcast.v1 import PredictRequest, StreamPredictResponse

STREAM = SERVICE + "StreamPredict"
PREDICT = SERVICE + "Predict"
LARGE = 65_536
FLAT_BYTES = 48 * 1024 * 1024
STILL_S = 1.0  # without a frame taken: the server pushes back


def narrow(matrix: Any) -> PredictRequest:
    return packed(matrix, data_type=1, values=matrix.astype("<f4").tobytes())


def kinds(seed: int) -> list[tuple[PredictRequest, int | None, Any]]:
    """(request, seed of the model that answers or None where it is refused, rows)."""
    row, some, many = rows(1, seed), rows(3, seed), rows(256, seed)
    return [
        (packed(row), 10, row),
        (packed(some), 10, some),
        (packed(many), 10, many),
        (narrow(row), 10, row.astype("<f4").astype(float)),
        (by_name(some), 10, some),
        (of_model(packed(row), version="9"), 9, row),
        (of_model(packed(row), "jumps"), 2, row),
        (packed([[np.nan] * 11]), None, None),
        (packed(row, schema_hash=OTHER_SCHEMA.hash), None, None),
        (packed(row, row_count=2), None, None),
        (of_model(packed(row), "moon"), None, None),
        (packed(rows(MAX_ROWS + 1)), None, None),
        (PredictRequest(), None, None),
    ]


def test_frames_of_every_kind_under_way_together_are_answered_in_order_each_as_it_must_be(
    channel: grpc.Channel,
) -> None:
    chooser = random.Random(4)
    sent = [chooser.choice(kinds(seed)) for seed in range(600)]
    answers = stream(channel, [frame(index, request) for index, (request, _, _) in enumerate(sent)])
    assert [answer.frame_id for answer in answers] == list(range(600))
    for answer, (_, model, matrix) in zip(answers, sent, strict=True):
        if model is None:
            assert answer.error.code in {code.value[0] for code in (grpc.StatusCode.INVALID_ARGUMENT,
                                         grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND)}  # fmt: skip
        else:
            assert_scored(answer.response, model, matrix)


def test_streams_beside_each_other_keep_their_own_order(channel: grpc.Channel) -> None:
    def frames(number: int) -> Iterator[bytes]:
        for index in range(200):
            yield frame(index, kinds(number * 1000 + index)[(index + number) % 7][0]).SerializeToString()

    streams = [channel.stream_stream(STREAM, bytes, bytes)(frames(number), timeout=TIMEOUT_S) for number in range(6)]
    for number, answers in enumerate(streams):
        for index, raw in enumerate(answers):
            answer = StreamPredictResponse.FromString(raw)
            assert answer.frame_id == index
            _, model, matrix = kinds(number * 1000 + index)[(index + number) % 7]
            assert model is not None
            assert_scored(answer.response, model, matrix)
        assert index == 199


def test_a_client_that_ends_its_side_first_gets_every_answer(server: Process) -> None:
    with Wire(server.address) as wire:
        wire.open_call(1, STREAM)
        for index in range(400):
            wire.message(1, frame(index, packed(rows(1, index))).SerializeToString(), end=index == 399)
        ended, messages = wire.answer(1)
    assert ended["grpc-status"] == "0"
    assert [StreamPredictResponse.FromString(message).frame_id for message in messages] == list(range(400))


def test_sixty_five_thousand_rows_are_one_message(patient: Process) -> None:
    with channel_to(patient.address, max_receive_message_length=-1) as channel:
        assert_scored(predict(channel, packed(rows(LARGE))), 3, rows(LARGE))
        counts = [1, LARGE, 1, 256, LARGE, 1]
        answers = stream(channel, [frame(index, packed(rows(count, index))) for index, count in enumerate(counts)])
        for index, count in enumerate(counts):
            assert answers[index].frame_id == index
            assert_scored(answers[index].response, 3, rows(count, index))


def test_a_reader_that_does_not_read_stops_its_own_frames_and_costs_no_memory(server: Process) -> None:
    """The client sends as fast as it is let; once it reads, nothing is missing."""
    raw = packed(rows(256))
    taken = 0
    stop = threading.Event()

    def frames() -> Iterator[bytes]:
        nonlocal taken
        for index in itertools.count():
            if stop.is_set():
                return
            taken = index + 1
            yield frame(index, raw).SerializeToString()

    with channel_to(server.address) as channel:
        predict(channel, raw)
        before = server.resident_bytes()
        answers = channel.stream_stream(STREAM, bytes, bytes)(frames())
        still = [0, time.monotonic()]

        def pushed_back() -> bool:
            if taken != still[0]:
                still[:] = [taken, time.monotonic()]
            return taken > 0 and time.monotonic() - still[1] > STILL_S

        await_true(pushed_back, what="push back")
        assert server.resident_bytes() - before < FLAT_BYTES
        predict(channel, packed(rows(1)))  # the others are served
        stop.set()
        assert [StreamPredictResponse.FromString(answer).frame_id for answer in answers] == list(range(taken))


def test_unary_callers_who_never_read_are_read_no_more_and_cost_no_memory(
    server: Process, channel: grpc.Channel
) -> None:
    raw = packed(rows(1)).SerializeToString()
    before = server.resident_bytes()
    with Wire(server.address, timeout_s=1.0) as wire:
        sent = 0

        def send_on() -> None:
            nonlocal sent
            while True:
                wire.request(2 * sent + 1, PREDICT, raw)
                sent += 1

        with pytest.raises((TimeoutError, ConnectionError)):
            send_on()
        assert sent > 1000
        assert server.resident_bytes() - before < FLAT_BYTES
        predict(channel, packed(rows(1)))
