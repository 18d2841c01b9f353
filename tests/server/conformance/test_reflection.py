from __future__ import annotations

from typing import Any, TypeAlias

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

Reflect: TypeAlias = "grpc.StreamStreamMultiCallable[bytes, bytes]"

SERVICES = {
    "volcast.v1.InferenceService",
    "inference.GRPCInferenceService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


@pytest.fixture(params=["v1", "v1alpha"])
def reflect(request: pytest.FixtureRequest, channel: grpc.Channel) -> Reflect:
    return channel.stream_stream(
        f"/grpc.reflection.{request.param}.ServerReflection/ServerReflectionInfo", bytes, bytes
    )


def ask(reflect: Reflect, **question: Any) -> reflection_pb2.ServerReflectionResponse:
    request = reflection_pb2.ServerReflectionRequest(**question)
    (answer,) = reflect(iter([request.SerializeToString()]), timeout=20)
    return reflection_pb2.ServerReflectionResponse.FromString(answer)


def test_every_service_is_listed(reflect: Reflect) -> None:
    answer = ask(reflect, list_services="")
    assert {service.name for service in answer.list_services_response.service} == SERVICES


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_listed_service_is_described(reflect: Reflect, service: str) -> None:
    answer = ask(reflect, file_containing_symbol=service)
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(raw)
        for raw in answer.file_descriptor_response.file_descriptor_proto
    ]
    assert service in {f"{file.package}.{described.name}" for file in files for described in file.service}


def test_an_unknown_symbol_is_answered_by_an_error(reflect: Reflect) -> None:
    answer = ask(reflect, file_containing_symbol="moon.Phase")
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_bytes_that_are_no_question_are_invalid(reflect: Reflect) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        list(reflect(iter([b"\xff"]), timeout=20))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
