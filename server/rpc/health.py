"""grpc.health.v1: Check, List and Watch, overall ("") and for each service.

grpcio's own servicer holds its lock while it writes to a watcher, so one that does not read would hold up
the drain that wants to tell it. Here a watcher waits alone, on an event that is replaced at each change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import DESCRIPTOR, HealthCheckRequest, HealthCheckResponse

from common.errors import NotFoundError
from server.rpc.inference import parse
from server.rpc.methods import Methods, Stream, StreamContext, Unary

SERVICE: str = DESCRIPTOR.services_by_name["Health"].full_name


class HealthDoor:
    def __init__(self, services: Iterable[str]) -> None:
        self._services = {"", *services}
        self._serving = False
        self._changed = asyncio.Event()
        self._closed = False

    def methods(self) -> Methods:
        return {
            f"/{SERVICE}/Check": Unary("Check", self.check),
            f"/{SERVICE}/List": Unary("List", self.list),
            f"/{SERVICE}/Watch": Stream("Watch", self.watch, one_request=True),
        }

    def set_serving(self, serving: bool) -> None:
        self._serving = serving
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def close(self) -> None:
        """Not serving, for good: watchers are told, then let go."""
        self._closed = True
        self.set_serving(False)

    def check(self, raw: bytes) -> bytes:
        service = parse(HealthCheckRequest, raw).service
        if service not in self._services:
            raise NotFoundError.of("service", f"unknown service {service[:64]!a}")
        return self._answer(service).SerializeToString()

    def list(self, raw: bytes) -> bytes:
        statuses = {service: self._answer(service) for service in self._services}
        answer: bytes = health_pb2.HealthListResponse(statuses=statuses).SerializeToString()  # type: ignore[attr-defined]
        return answer

    async def watch(self, context: StreamContext) -> None:
        """The status now and at each change. A service that is unknown is told as such and watched on."""
        service = parse(HealthCheckRequest, await context.read() or b"").service
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
