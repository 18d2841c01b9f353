"""grpc.health.v1: Check, List and Watch, overall ("") and for each service.

grpcio's own servicer keeps its lock while it writes to a watcher. A watcher that does not read would block the
drain, which has to send NOT_SERVING to every watcher. Here each watcher waits by itself on an event, and every
change of the status replaces that event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import DESCRIPTOR, HealthCheckRequest, HealthCheckResponse

from common.errors import NotFoundError
from server.rpc.inference import parse
from server.rpc.methods import Methods, StreamContext, StreamMethod, Unary

SERVICE: str = DESCRIPTOR.services_by_name["Health"].full_name


class HealthService:
    """The status of all services of this server; they change together."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = {"", *services}
        self._serving = False
        self._changed = asyncio.Event()
        self._closed = False

    def methods(self) -> Methods:
        return {
            f"/{SERVICE}/Check": Unary("Check", self.check),
            f"/{SERVICE}/List": Unary("List", self.list),
            f"/{SERVICE}/Watch": StreamMethod("Watch", self.watch, one_request=True),
        }

    def set_serving(self, serving: bool) -> None:
        self._serving = serving
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def close(self) -> None:
        """Sets NOT_SERVING for good. Each Watch call writes that status and ends."""
        self._closed = True
        self.set_serving(False)

    def check(self, raw: bytes) -> bytes:
        service = parse(HealthCheckRequest, raw).service
        if service not in self._services:
            raise NotFoundError.of("service", f"unknown service {service[:64]!r}")
        return self._response(service).SerializeToString()

    def list(self, raw: bytes) -> bytes:
        statuses = {service: self._response(service) for service in self._services}
        response: bytes = health_pb2.HealthListResponse(statuses=statuses).SerializeToString()  # type: ignore[attr-defined]
        return response

    async def watch(self, context: StreamContext) -> None:
        """Writes the current status and each later change. An unknown service has the status SERVICE_UNKNOWN."""
        service = parse(HealthCheckRequest, await context.read() or b"").service
        last_written = None
        while True:
            changed, closed = self._changed, self._closed
            response = self._response(service)
            if response != last_written:
                await context.write(response.SerializeToString())
                last_written = response
            if closed:
                return
            await changed.wait()

    def _response(self, service: str) -> HealthCheckResponse:
        if service not in self._services:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        if self._serving:
            return HealthCheckResponse(status=HealthCheckResponse.SERVING)
        return HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING)
