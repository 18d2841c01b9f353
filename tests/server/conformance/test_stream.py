"""StreamPredict: answers in order, errors in their place."""

from __future__ import annotations

import math

import grpc
import pytest
from numpy.testing import assert_allclose

from tests.server.bundles import rows
from tests.server.conformance.calls import (
    STABLE,
    frame,
    packed,
    predict,
    stream,
    violations,
)
from volcast.v1 import (
    ModelSelector,
    PredictRequest,
    StreamPredictRequest,
)


def test_answers_come_in_order_with_their_frames_ids(channel: grpc.Channel) -> None:
    ids = [7, 7, 0, 2**64 - 1, *range(300)]
    answers = stream(channel, [frame(frame_id, packed(rows(1, seed))) for seed, frame_id in enumerate(ids)])
    assert [answer.frame_id for answer in answers] == ids
    for seed, answer in enumerate(answers):
        assert_allclose(answer.response.probabilities, STABLE.predict(rows(1, seed)), rtol=0, atol=1e-12)


def test_a_frame_of_many_rows_is_scored_as_predict_would(channel: grpc.Channel) -> None:
    (answer,) = stream(channel, [frame(1, packed(rows(256)))])
    assert answer.response.probabilities == predict(channel, packed(rows(256))).probabilities


@pytest.mark.parametrize(
    ("bad", "code", "field"),
    [
        (frame(2, PredictRequest()), grpc.StatusCode.INVALID_ARGUMENT, "rows"),
        (StreamPredictRequest(frame_id=2), grpc.StatusCode.INVALID_ARGUMENT, "request"),
        (frame(2, packed([[math.nan] * 11])), grpc.StatusCode.INVALID_ARGUMENT, "packed.values"),
        (frame(2, packed(rows(1), schema_hash="x")), grpc.StatusCode.FAILED_PRECONDITION, "packed.schema_hash"),
        (frame(2, PredictRequest(model=ModelSelector(name="moon"))), grpc.StatusCode.NOT_FOUND, "model.name"),
    ],
)
def test_a_bad_frame_is_answered_in_the_stream_and_the_stream_lives_on(
    channel: grpc.Channel, bad: StreamPredictRequest, code: grpc.StatusCode, field: str
) -> None:
    before, answer, after = stream(channel, [frame(1, packed(rows(1))), bad, frame(3, packed(rows(1)))])
    assert answer.frame_id == 2
    assert answer.error.code == code.value[0]
    assert list(violations(answer.error)) == [field]
    assert (before.frame_id, after.frame_id) == (1, 3)
    assert before.response.probabilities == after.response.probabilities


def test_a_frame_of_bytes_that_are_no_frame_is_answered_as_frame_0(channel: grpc.Channel) -> None:
    answer, after = stream(channel, [b"\xff\xff", frame(3, packed(rows(1)))])
    assert answer.frame_id == 0
    assert violations(answer.error) == {"request": "the bytes are no volcast.v1.StreamPredictRequest"}
    assert after.response.model_version == "10"


def test_a_stream_without_frames_ends_well(channel: grpc.Channel) -> None:
    assert stream(channel, []) == []
