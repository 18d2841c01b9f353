"""How the suite asks: plain grpc channels, bytes in, bytes out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from numpy.testing import assert_allclose

from benchmarks import rolling
from common.schema import CORE_1
from tests.server.bundles import Logistic, named
from volcast.v1 import (
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
    fields: dict[str, Any] = {"schema_hash": CORE_1.hash, "data_type": 2, "row_count": len(matrix)}
    fields["values"] = np.asarray(matrix, "<f8").tobytes()
    return PredictRequest(packed=PackedRows(**{**fields, **changes}))


def by_name(matrix: Any) -> PredictRequest:
    return PredictRequest(named=NamedRows(rows=[NamedRow(features=named(row)) for row in matrix]))


def call(channel: grpc.Channel, method: str, request: bytes) -> bytes:
    answer: bytes = channel.unary_unary(method, bytes, bytes)(request, timeout=TIMEOUT_S)
    return answer


def predict(channel: grpc.Channel, request: PredictRequest) -> PredictResponse:
    return PredictResponse.FromString(call(channel, SERVICE + "Predict", request.SerializeToString()))


def refused(channel: grpc.Channel, request: PredictRequest | bytes) -> tuple[grpc.StatusCode, dict[str, str]]:
    """The code, and field to description from the BadRequest details."""
    raw = request if isinstance(request, bytes) else request.SerializeToString()
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, SERVICE + "Predict", raw)
    trailers = {entry.key: entry.value for entry in raised.value.trailing_metadata()}
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == raised.value.code().value[0]
    assert status.message == raised.value.details()
    return raised.value.code(), violations(status)


def violations(status: status_pb2.Status) -> dict[str, str]:
    bad = error_details_pb2.BadRequest()
    return {
        violation.field: violation.description
        for detail in status.details
        if detail.Unpack(bad)
        for violation in bad.field_violations
    }


def stream(channel: grpc.Channel, frames: list[StreamPredictRequest | bytes]) -> list[StreamPredictResponse]:
    raw = [frame if isinstance(frame, bytes) else frame.SerializeToString() for frame in frames]
    answers: Iterator[bytes] = channel.stream_stream(SERVICE + "StreamPredict", bytes, bytes)(
        iter(raw), timeout=TIMEOUT_S
    )
    return [StreamPredictResponse.FromString(answer) for answer in answers]


def frame(frame_id: int, request: PredictRequest) -> StreamPredictRequest:
    return StreamPredictRequest(frame_id=frame_id, request=request)


def of_model(request: PredictRequest, name: str = "", version: str = "", label: str = "") -> PredictRequest:
    """The same rows for a certain model."""
    choice: dict[str, str] = {"version": version} if version else {"label": label} if label else {}
    request.model.CopyFrom(ModelSelector(name=name, **choice))
    return request


def assert_scored(response: PredictResponse, seed: int, matrix: Any) -> None:
    """The rows' probabilities, all of them, by the model of that seed and no other."""
    assert_allclose(response.probabilities, Logistic(seed).predict(np.asarray(matrix)), rtol=0, atol=1e-12)


def channel_to(address: str, **options: Any) -> grpc.Channel:
    """A connection of its own."""
    chosen: dict[str, Any] = {"grpc.use_local_subchannel_pool": 1}
    chosen |= {f"grpc.{name}": value for name, value in options.items()}
    return grpc.insecure_channel(address, options=list(chosen.items()))


def code_of(call: Any) -> grpc.StatusCode:
    """How a call that is under way ends."""
    code: grpc.StatusCode = call.code()
    return code


RETRIES = json.dumps({"methodConfig": rolling.RETRIES})
