"""The Open Inference Protocol over gRPC: every method, and the same errors as volcast.v1."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.server.bundles import Logistic, rows
from tests.server.conformance.calls import TIMEOUT_S, call, code_of
from tests.server.conftest import MAX_ROWS
from volcast.oip.v2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStreamInferResponse,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)

SERVICE = "/inference.GRPCInferenceService/"
UNARY = ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "RepositoryIndex"]
UNARY += ["RepositoryModelLoad", "RepositoryModelUnload"]


def infer(count: int, seed: int = 0, name: str = "volatility", **fields: Any) -> ModelInferRequest:
    request = ModelInferRequest(model_name=name, **fields)
    request.inputs.add(name="features", datatype="FP64", shape=[count, 11])
    request.raw_input_contents.append(rows(count, seed).astype("<f8").tobytes())
    return request


def typed(count: int, seed: int = 0) -> ModelInferRequest:
    request = ModelInferRequest(model_name="volatility", id="typed")
    tensor = request.inputs.add(name="features", datatype="FP64", shape=[count, 11])
    tensor.contents.fp64_contents.extend(rows(count, seed).ravel().tolist())
    return request


def ask(channel: grpc.Channel, request: ModelInferRequest) -> ModelInferResponse:
    return ModelInferResponse.FromString(call(channel, SERVICE + "ModelInfer", request.SerializeToString()))


def test_the_server_is_live_and_ready_and_returns_its_metadata(channel: grpc.Channel) -> None:
    assert ServerLiveResponse.FromString(call(channel, SERVICE + "ServerLive", b"")).live
    assert ServerReadyResponse.FromString(call(channel, SERVICE + "ServerReady", b"")).ready
    answer = ServerMetadataResponse.FromString(call(channel, SERVICE + "ServerMetadata", b""))
    assert answer.name == "volcast"


@pytest.mark.parametrize(("name", "version", "ready"), [("volatility", "9", True), ("volatility", "11", False)])
def test_a_model_says_whether_it_is_ready(channel: grpc.Channel, name: str, version: str, ready: bool) -> None:
    raw = ModelReadyRequest(name=name, version=version).SerializeToString()
    assert ModelReadyResponse.FromString(call(channel, SERVICE + "ModelReady", raw)).ready is ready


def test_a_model_says_its_tensors(channel: grpc.Channel) -> None:
    raw = ModelMetadataRequest(name="volatility").SerializeToString()
    answer = ModelMetadataResponse.FromString(call(channel, SERVICE + "ModelMetadata", raw))
    assert list(answer.versions) == ["9", "10"]
    assert [(tensor.name, list(tensor.shape)) for tensor in answer.inputs] == [("features", [-1, 11])]


@pytest.mark.parametrize("count", [1, 7, MAX_ROWS])
def test_raw_rows_are_scored_in_order(channel: grpc.Channel, count: int) -> None:
    answer = ask(channel, infer(count, id="7"))
    assert (answer.model_name, answer.model_version, answer.id) == ("volatility", "10", "7")
    (raw,) = answer.raw_output_contents
    assert_allclose(np.frombuffer(raw, "<f8"), Logistic(10).predict(rows(count)), rtol=0, atol=1e-12)


def test_typed_rows_are_answered_typed(channel: grpc.Channel) -> None:
    answer = ask(channel, typed(5))
    assert_allclose(answer.outputs[0].contents.fp64_contents, Logistic(10).predict(rows(5)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "version", "seed"), [("volatility", "9", 9), ("jumps", "", 2)])
def test_the_model_asked_for_answers(channel: grpc.Channel, name: str, version: str, seed: int) -> None:
    (raw,) = ask(channel, infer(3, name=name, model_version=version)).raw_output_contents
    assert_allclose(np.frombuffer(raw, "<f8"), Logistic(seed).predict(rows(3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (infer(1, name="moon"), grpc.StatusCode.NOT_FOUND),
        (infer(1, model_version="11"), grpc.StatusCode.NOT_FOUND),
        (ModelInferRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (infer(MAX_ROWS + 1), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_wrong_request_ends_with_its_code(
    channel: grpc.Channel, request_: ModelInferRequest, code: grpc.StatusCode
) -> None:
    pending = channel.unary_unary(SERVICE + "ModelInfer", bytes, bytes).future(
        request_.SerializeToString(), timeout=TIMEOUT_S
    )
    assert code_of(pending) is code
    assert "grpc-status-details-bin" in dict(pending.trailing_metadata())


@pytest.mark.parametrize("method", UNARY)
def test_bytes_that_are_no_request_are_invalid(channel: grpc.Channel, method: str) -> None:
    pending = channel.unary_unary(SERVICE + method, bytes, bytes).future(b"\xff", timeout=TIMEOUT_S)
    assert code_of(pending) is grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_answers_in_order_and_lives_through_a_wrong_request(channel: grpc.Channel) -> None:
    requests = [infer(1, seed, id=str(seed)) if seed % 7 else infer(1, name="moon", id=str(seed)) for seed in range(60)]
    raw = iter([request.SerializeToString() for request in requests])
    answers = [
        ModelStreamInferResponse.FromString(response)
        for response in channel.stream_stream(SERVICE + "ModelStreamInfer", bytes, bytes)(raw, timeout=TIMEOUT_S)
    ]
    assert [answer.infer_response.id for answer in answers] == [str(seed) for seed in range(60)]
    for seed, answer in enumerate(answers):
        assert bool(answer.error_message) is (seed % 7 == 0)
        if seed % 7:
            got = np.frombuffer(answer.infer_response.raw_output_contents[0], "<f8")
            assert_allclose(got, Logistic(10).predict(rows(1, seed)), rtol=0, atol=1e-12)


def test_the_index_lists_every_version_and_reasons_of_failures(channel: grpc.Channel) -> None:
    answer = RepositoryIndexResponse.FromString(call(channel, SERVICE + "RepositoryIndex", b""))
    assert [(model.name, model.version, model.state) for model in answer.models] == [
        ("jumps", "1", "READY"),
        ("volatility", "9", "READY"),
        ("volatility", "10", "READY"),
        ("volatility", "11", "UNAVAILABLE"),
    ]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("jumps", grpc.StatusCode.OK),
        ("volatility", grpc.StatusCode.INVALID_ARGUMENT),  # version 11 is damaged
        ("moon", grpc.StatusCode.NOT_FOUND),
    ],
)
def test_a_load_returns_the_result_for_the_model(channel: grpc.Channel, name: str, code: grpc.StatusCode) -> None:
    raw = RepositoryModelLoadRequest(model_name=name).SerializeToString()
    pending = channel.unary_unary(SERVICE + "RepositoryModelLoad", bytes, bytes).future(raw, timeout=TIMEOUT_S)
    assert code_of(pending) is code


def test_nothing_is_unloaded_on_request(channel: grpc.Channel) -> None:
    pending = channel.unary_unary(SERVICE + "RepositoryModelUnload", bytes, bytes).future(b"", timeout=TIMEOUT_S)
    assert code_of(pending) is grpc.StatusCode.UNIMPLEMENTED
