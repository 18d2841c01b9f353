"""Server reflection, v1 and v1alpha: with it grpcurl needs no .proto files.

grpcio-reflection implements v1alpha only. v1 has equal messages under another package name. So one servicer
implements both versions, and the descriptor of v1 is derived from the descriptor of v1alpha.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as V1ALPHA
from grpc_reflection.v1alpha.reflection import aio

from server.rpc.inference import parse
from server.rpc.methods import Methods, StreamContext, StreamMethod

V1 = V1ALPHA.replace(".v1alpha.", ".v1.")


def methods(services: Iterable[str]) -> Methods:
    """services: names of services whose descriptors are loaded. The reflection services are added to the list."""
    _describe_v1()
    servicer: Any = aio.ReflectionServicer([*services, V1, V1ALPHA])

    async def reflect(context: StreamContext) -> None:
        async for response in servicer.ServerReflectionInfo(_requests(context), None):
            await context.write(response.SerializeToString())

    return {f"/{name}/ServerReflectionInfo": StreamMethod("ServerReflectionInfo", reflect) for name in (V1, V1ALPHA)}


async def _requests(context: StreamContext) -> AsyncIterator[Any]:
    while (raw := await context.read()) is not None:
        yield parse(reflection_pb2.ServerReflectionRequest, raw)


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
