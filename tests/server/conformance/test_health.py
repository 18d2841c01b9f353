"""Health of the server and of its models, for people and for load balancers."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2

from common.schema import CORE_1
from tests.server.bundles import rows
from tests.server.conformance.calls import (
    SERVICE,
    TIMEOUT_S,
    call,
    packed,
)
from tests.server.conftest import MAX_ROWS
from tests.server.processes import Process
from volcast.v1 import (
    HealthRequest,
    HealthResponse,
)


def test_health_lists_loaded_models_and_load_errors(server: Process, channel: grpc.Channel) -> None:
    answer = HealthResponse.FromString(call(channel, SERVICE + "Health", HealthRequest().SerializeToString()))
    assert answer.ready
    assert (answer.default_model, answer.front) == ("volatility", server.ready["front"])
    assert answer.build
    assert answer.uptime_s > 0
    assert [(model.name, model.version, model.ready) for model in answer.models] == [
        ("jumps", "1", True),
        ("volatility", "9", True),
        ("volatility", "10", True),
        ("volatility", "11", False),
    ]
    stable, damaged = answer.models[2], answer.models[3]
    assert (list(stable.labels), stable.threshold, stable.load_error) == (["stable"], 0.25, "")
    assert (stable.schema_name, stable.schema_hash) == (CORE_1.name, CORE_1.hash)
    assert [(feature.name, feature.unit) for feature in stable.features] == [
        (feature.name, feature.unit) for feature in CORE_1.features
    ]
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
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch", bytes, bytes)(request, timeout=TIMEOUT_S)
    answer = health_pb2.HealthCheckResponse.FromString(next(watch))
    watch.cancel()
    assert health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) == status


def test_list_tells_the_status_of_every_service(channel: grpc.Channel) -> None:
    answer = health_pb2.HealthListResponse.FromString(call(channel, "/grpc.health.v1.Health/List", b""))  # type: ignore[attr-defined]
    assert set(answer.statuses) == {"", "volcast.v1.InferenceService", "inference.GRPCInferenceService"}


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_bytes_that_are_no_health_request_are_invalid(channel: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        next(channel.unary_stream(f"/grpc.health.v1.Health/{method}", bytes, bytes)(b"\xff", timeout=TIMEOUT_S))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_health_is_not_queued_behind_work(channel: grpc.Channel) -> None:
    work = channel.unary_unary(SERVICE + "Predict", bytes, bytes)
    raw = packed(rows(MAX_ROWS)).SerializeToString()
    waiting = [work.future(raw, timeout=TIMEOUT_S) for _ in range(200)]
    call(channel, "/grpc.health.v1.Health/Check", b"")
    assert all(call.result() for call in waiting)
