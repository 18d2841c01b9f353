"""grpc.health.v1: Check, List and Watch, overall ("") and for each service.

grpcio's own servicer holds its lock while it writes to a watcher, so one that does not read would hold up
the drain that wants to tell it. Here a watcher waits alone, on an event that is replaced at each change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import DESCRIPTOR, HealthCheckRequest, HealthCheckResponse

from server.grpc.inference import abort

SERVICE: str = DESCRIPTOR.services_by_name["Health"].full_name


class HealthDoor:
    def __init__(self, services: Iterable[str]) -> None:
        self._services = {"", *services}
        self._serving = False
        self._changed = asyncio.Event()
        self._closed = False

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self.check),
                "List": grpc.unary_unary_rpc_method_handler(self.list),
                "Watch": grpc.unary_stream_rpc_method_handler(self.watch),
            },
        )

    def set_serving(self, serving: bool) -> None:
        self._serving = serving
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def close(self) -> None:
        """Not serving, for good: watchers are told, then let go."""
        self._closed = True
        self.set_serving(False)

    async def check(self, raw: bytes, context: Any) -> bytes:
        service = await _service(raw, context)
        if service not in self._services:
            message = f"unknown service {service[:64]!a}"
            await abort(context, status_pb2.Status(code=code_pb2.NOT_FOUND, message=message))
        return self._answer(service).SerializeToString()

    async def list(self, raw: bytes, context: Any) -> bytes:
        statuses = {service: self._answer(service) for service in self._services}
        answer: bytes = health_pb2.HealthListResponse(statuses=statuses).SerializeToString()  # type: ignore[attr-defined]
        return answer

    async def watch(self, raw: bytes, context: Any) -> None:
        """The status now and at each change. A service that is unknown is told as such and watched on."""
        service = await _service(raw, context)
        told = None
        while True:
            changed, closed = self._changed, self._closed
            answer = self._answer(service)
            if answer != told:
                await context.write(answer.SerializeToString())
                told = answer
            if closed:
                return
            await changed.wait()

    def _answer(self, service: str) -> HealthCheckResponse:
        if service not in self._services:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        if self._serving:
            return HealthCheckResponse(status=HealthCheckResponse.SERVING)
        return HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING)


async def _service(raw: bytes, context: Any) -> str:
    try:
        name: str = HealthCheckRequest.FromString(raw).service
    except DecodeError:
        message = f"the bytes are no {HealthCheckRequest.DESCRIPTOR.full_name}"
        await abort(context, status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=message))
    return name
