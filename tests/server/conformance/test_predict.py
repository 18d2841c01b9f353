"""Predict: rows in, probabilities out, and the errors of wrong requests."""

from __future__ import annotations

import math

import grpc
import numpy as np
import pytest
from numpy.testing import assert_allclose

from common.schema import CORE_1
from tests.server.bundles import Logistic, named, rows
from tests.server.conformance.calls import (
    SERVICE,
    STABLE,
    by_name,
    call,
    packed,
    predict,
    refused,
)
from tests.server.conftest import MAX_MESSAGE_BYTES, MAX_ROWS
from volcast.v1 import (
    ModelSelector,
    NamedRow,
    NamedRows,
    PredictRequest,
)


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
        channel.unary_unary(SERVICE + "Predict", bytes, bytes)(packed(rows(1)).SerializeToString(), timeout=-1)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, SERVICE + "Forecast", b"")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
