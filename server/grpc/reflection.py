"""Server reflection, v1 and v1alpha, so that grpcurl needs no files.

grpcio-reflection brings v1alpha only. v1 is the same messages under another package name, so the same
servicer answers both, and v1's descriptor is made from v1alpha's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as V1ALPHA
from grpc_reflection.v1alpha.reflection import aio

from server.grpc.inference import abort

V1 = V1ALPHA.replace(".v1alpha.", ".v1.")


def handlers(services: Iterable[str]) -> list[grpc.GenericRpcHandler]:
    """For services whose descriptors are loaded; reflection lists itself, too."""
    _describe_v1()
    servicer: Any = aio.ReflectionServicer([*services, V1, V1ALPHA])

    async def reflect(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for response in servicer.ServerReflectionInfo(_parsed(requests, context), context):
            yield response.SerializeToString()

    method: dict[str, Any] = {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(reflect)}
    return [grpc.method_handlers_generic_handler(name, method) for name in (V1, V1ALPHA)]


async def _parsed(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
    async for raw in requests:
        try:
            yield reflection_pb2.ServerReflectionRequest.FromString(raw)
        except DecodeError:
            message = "the bytes are no ServerReflectionRequest"
            await abort(context, status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=message))


def _describe_v1() -> None:
    pool = descriptor_pool.Default()
    renamed = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(renamed)
    renamed.name = renamed.name.replace("v1alpha", "v1")
    renamed.package = renamed.package.replace("v1alpha", "v1")
    for message in renamed.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for service in renamed.service:
        for method in service.method:
            method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
            method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    try:
        pool.FindFileByName(renamed.name)
    except KeyError:
        pool.AddSerializedFile(renamed.SerializeToString())
