"""What correct means, whatever the front: each test asks a server process over the wire."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from numpy.testing import assert_allclose

from common.schema import CORE_1
from tests.server.bundles import Logistic, named, rows
from tests.server.conftest import MAX_MESSAGE_BYTES, MAX_ROWS
from tests.server.processes import Process
from volcast.v1 import (
    HealthRequest,
    HealthResponse,
    ModelSelector,
    NamedRow,
    NamedRows,
    PackedRows,
    PredictRequest,
    PredictResponse,
    StreamPredictRequest,
    StreamPredictResponse,
)

SERVICE = "/volcast.v1.InferenceService/"
STABLE = Logistic(10)
TIMEOUT_S = 20.0


def packed(matrix: Any, **changes: Any) -> PredictRequest:
    fields = {"schema_hash": CORE_1.hash, "data_type": 2, "row_count": len(matrix)}
    fields["values"] = np.asarray(matrix, "<f8").tobytes()
    return PredictRequest(packed=PackedRows(**{**fields, **changes}))


def by_name(matrix: Any) -> PredictRequest:
    return PredictRequest(named=NamedRows(rows=[NamedRow(features=named(row)) for row in matrix]))


def call(channel: grpc.Channel, method: str, request: bytes) -> bytes:
    answer: bytes = channel.unary_unary(method)(request, timeout=TIMEOUT_S)
    return answer


def predict(channel: grpc.Channel, request: PredictRequest) -> PredictResponse:
    return PredictResponse.FromString(call(channel, SERVICE + "Predict", request.SerializeToString()))


def refused(channel: grpc.Channel, request: PredictRequest | bytes) -> tuple[grpc.StatusCode, dict[str, str]]:
    """The code, and field to description from the BadRequest details."""
    raw = request if isinstance(request, bytes) else request.SerializeToString()
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, SERVICE + "Predict", raw)
    trailers = dict(raised.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == raised.value.code().value[0]
    assert status.message == raised.value.details()
    return raised.value.code(), violations(status)


def violations(status: status_pb2.Status) -> dict[str, str]:
    bad = error_details_pb2.BadRequest()
    return {
        one.field: one.description for detail in status.details if detail.Unpack(bad) for one in bad.field_violations
    }


def stream(channel: grpc.Channel, frames: list[StreamPredictRequest | bytes]) -> list[StreamPredictResponse]:
    raw = [frame if isinstance(frame, bytes) else frame.SerializeToString() for frame in frames]
    answers: Iterator[bytes] = channel.stream_stream(SERVICE + "StreamPredict")(iter(raw), timeout=TIMEOUT_S)
    return [StreamPredictResponse.FromString(answer) for answer in answers]


def frame(frame_id: int, request: PredictRequest) -> StreamPredictRequest:
    return StreamPredictRequest(frame_id=frame_id, request=request)


# Predict


@pytest.mark.parametrize("count", [1, 2, MAX_ROWS])
def test_packed_rows_are_scored_in_order(channel: grpc.Channel, count: int) -> None:
    response = predict(channel, packed(rows(count)))
    assert_allclose(response.probabilities, STABLE.predict(rows(count)), rtol=0, atol=1e-12)


def test_the_answer_says_which_model_gave_it_and_how_long_it_took(channel: grpc.Channel) -> None:
    response = predict(channel, packed(rows(1)))
    assert (response.model_name, response.model_version, response.threshold) == ("volatility", "10", 0.25)
    assert response.queue_ns > 0
    assert response.compute_ns > 0


def test_named_rows_are_scored_as_the_same_rows_packed(channel: grpc.Channel) -> None:
    packed_answer = predict(channel, packed(rows(7)))
    assert predict(channel, by_name(rows(7))).probabilities == packed_answer.probabilities


def test_float32_rows_are_scored_as_their_exact_float64(channel: grpc.Channel) -> None:
    narrow = rows(3).astype("<f4")
    answer = predict(channel, packed(rows(3), data_type=1, values=narrow.tobytes()))
    assert answer.probabilities == predict(channel, packed(narrow.astype(np.float64))).probabilities


@pytest.mark.parametrize(
    ("selector", "seed"),
    [
        (ModelSelector(), 10),
        (ModelSelector(name="volatility"), 10),
        (ModelSelector(label="stable"), 10),
        (ModelSelector(version="9"), 9),
        (ModelSelector(name="jumps"), 2),
        (ModelSelector(name="jumps", version="1"), 2),
    ],
)
def test_the_model_asked_for_answers(channel: grpc.Channel, selector: ModelSelector, seed: int) -> None:
    request = packed(rows(2))
    request.model.CopyFrom(selector)
    assert_allclose(predict(channel, request).probabilities, Logistic(seed).predict(rows(2)), rtol=0, atol=1e-12)


def test_a_routing_key_changes_nothing_without_a_canary(channel: grpc.Channel) -> None:
    request = packed(rows(1))
    request.routing_key = "account-7"
    assert predict(channel, request).model_version == "10"


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (PredictRequest(), {"rows"}),
        (b"", {"rows"}),
        (PredictRequest(named=NamedRows()), {"named.rows"}),
        (by_name([rows(1)[0], [math.nan] * 11]), {f"named.rows[1].features[{name}]" for name in CORE_1.names}),
        (PredictRequest(named=NamedRows(rows=[NamedRow(features={**named(rows(1)[0]), "moon": 1.0})])),
         {"named.rows[0].features[moon]"}),
        (packed(rows(1), schema_hash=""), {"packed.schema_hash"}),
        (packed(rows(1), data_type=0), {"packed.data_type"}),
        (packed(rows(1), data_type=77), {"packed.data_type"}),
        (packed(rows(1), row_count=0), {"packed.row_count"}),
        (packed(rows(1), row_count=2**32 - 1), {"packed.row_count"}),
        (packed(rows(1), row_count=2), {"packed.values"}),
        (packed(rows(1), values=b"123"), {"packed.values"}),
        (packed([[math.nan] * 11]), {"packed.values"}),
        (packed([[math.inf] * 11]), {"packed.values"}),
        (packed(rows(2), event_times_ns=[1]), {"packed.event_times_ns"}),
        (packed(rows(2), product_ids=["a", "b", "c"]), {"packed.product_ids"}),
    ],
)  # fmt: skip
def test_a_wrong_request_is_invalid_and_names_its_fields(
    channel: grpc.Channel, request_: PredictRequest | bytes, fields: set[str]
) -> None:
    code, faults = refused(channel, request_)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(faults) == fields


def test_a_value_that_is_not_finite_is_located(channel: grpc.Channel) -> None:
    matrix = rows(3)
    matrix[2, 6] = math.inf
    _, faults = refused(channel, packed(matrix))
    assert faults == {"packed.values": "row 2, feature volatility: expected a finite number, got inf"}


def test_a_row_the_model_has_no_probability_for_is_invalid(channel: grpc.Channel) -> None:
    request = packed(np.full((1, 11), 1.7e308))
    request.model.name = "jumps"
    code, faults = refused(channel, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert faults == {"rows": "row 0: outside the range of model jumps/1: it has no probability"}


def test_rows_of_another_schema_fail_a_precondition_with_both_hashes(channel: grpc.Channel) -> None:
    code, faults = refused(channel, packed(rows(1), schema_hash="0123456789ab"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert faults == {
        "packed.schema_hash": f"rows are packed for schema 0123456789ab, the model takes schema {CORE_1.hash}"
    }


@pytest.mark.parametrize(
    ("selector", "field"),
    [
        (ModelSelector(name="moon"), "model.name"),
        (ModelSelector(version="11"), "model.version"),
        (ModelSelector(name="jumps", version="9"), "model.version"),
        (ModelSelector(label="canary"), "model.label"),
    ],
)
def test_a_model_that_is_not_held_is_not_found(channel: grpc.Channel, selector: ModelSelector, field: str) -> None:
    request = packed(rows(1))
    request.model.CopyFrom(selector)
    code, faults = refused(channel, request)
    assert code is grpc.StatusCode.NOT_FOUND
    assert list(faults) == [field]


@pytest.mark.parametrize("raw", [b"\xff", b"\x12\x05ab", b"\x1a\x03\x0a\x01\xff", bytes(range(256))])
def test_bytes_that_are_no_request_are_invalid_and_say_no_more(channel: grpc.Channel, raw: bytes) -> None:
    code, faults = refused(channel, raw)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert faults == {"request": "the bytes are no volcast.v1.PredictRequest"}


def test_hundreds_of_long_unknown_names_still_fit_in_the_trailers(channel: grpc.Channel) -> None:
    names = {f"é{index}" * 60: 1.0 for index in range(100)}
    code, faults = refused(channel, PredictRequest(named=NamedRows(rows=[NamedRow(features=names)])))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert faults["named.rows"] == "more fields are at fault"


def test_a_message_over_the_limit_is_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, SERVICE + "Predict", bytes(MAX_MESSAGE_BYTES + 1))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_deadline_that_has_passed_is_exceeded(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(SERVICE + "Predict")(packed(rows(1)).SerializeToString(), timeout=-1)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, SERVICE + "Forecast", b"")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


# StreamPredict


def test_answers_come_in_order_with_their_frames_ids(channel: grpc.Channel) -> None:
    ids = [7, 7, 0, 2**64 - 1, *range(300)]
    answers = stream(channel, [frame(one, packed(rows(1, seed))) for seed, one in enumerate(ids)])
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


# Health and reflection


def test_health_says_what_is_held_and_what_could_not_be_loaded(server: Process, channel: grpc.Channel) -> None:
    answer = HealthResponse.FromString(call(channel, SERVICE + "Health", HealthRequest().SerializeToString()))
    assert answer.ready
    assert (answer.default_model, answer.front) == ("volatility", server.ready["front"])
    assert answer.build
    assert answer.uptime_s > 0
    assert [(one.name, one.version, one.ready) for one in answer.models] == [
        ("jumps", "1", True),
        ("volatility", "9", True),
        ("volatility", "10", True),
        ("volatility", "11", False),
    ]
    stable, damaged = answer.models[2], answer.models[3]
    assert (list(stable.labels), stable.threshold, stable.load_error) == (["stable"], 0.25, "")
    assert (stable.schema_name, stable.schema_hash) == (CORE_1.name, CORE_1.hash)
    assert [(one.name, one.unit) for one in stable.features] == [(one.name, one.unit) for one in CORE_1.features]
    assert "model.onnx is damaged" in damaged.load_error


@pytest.mark.parametrize("service", ["", "volcast.v1.InferenceService", "inference.GRPCInferenceService"])
def test_the_standard_health_check_says_serving(channel: grpc.Channel, service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    answer = health_pb2.HealthCheckResponse.FromString(call(channel, "/grpc.health.v1.Health/Check", request))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_health_of_an_unknown_service_is_not_found(channel: grpc.Channel) -> None:
    request = health_pb2.HealthCheckRequest(service="moon").SerializeToString()
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, "/grpc.health.v1.Health/Check", request)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("service", "status"),
    [("", "SERVING"), ("volcast.v1.InferenceService", "SERVING"), ("moon", "SERVICE_UNKNOWN")],
)
def test_watch_tells_the_status_at_once(channel: grpc.Channel, service: str, status: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(request, timeout=TIMEOUT_S)
    answer = health_pb2.HealthCheckResponse.FromString(next(watch))
    watch.cancel()
    assert health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) == status


def test_list_tells_the_status_of_every_service(channel: grpc.Channel) -> None:
    answer = health_pb2.HealthListResponse.FromString(call(channel, "/grpc.health.v1.Health/List", b""))  # type: ignore[attr-defined]
    assert set(answer.statuses) == {"", "volcast.v1.InferenceService", "inference.GRPCInferenceService"}


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_bytes_that_are_no_health_request_are_invalid(channel: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        next(channel.unary_stream(f"/grpc.health.v1.Health/{method}")(b"\xff", timeout=TIMEOUT_S))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_health_is_not_queued_behind_work(channel: grpc.Channel) -> None:
    work = channel.unary_unary(SERVICE + "Predict")
    raw = packed(rows(MAX_ROWS)).SerializeToString()
    waiting = [work.future(raw, timeout=TIMEOUT_S) for _ in range(200)]
    call(channel, "/grpc.health.v1.Health/Check", b"")
    assert all(one.result() for one in waiting)
