"""Handling of every HTTP request: metrics, limit of the body, responses for errors."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import (
    DeadlineError,
    ModelNotFoundError,
    OverloadedError,
    RequestError,
    UnauthenticatedError,
    UnavailableError,
    VolcastError,
)
from common.metrics import LostLogLines
from server.gateway.schemas import ErrorBody, Violation, named_violations, one_line

MAX_BODY_BYTES = 64 * 1024  # a row is 400 bytes
BUCKETS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5)

# The first matching class decides, so a subclass precedes its base. All other errors are 500.
HTTP_CODES: tuple[tuple[type[VolcastError], int], ...] = (
    (ModelNotFoundError, 404),
    (RequestError, 422),
    (UnauthenticatedError, 401),
    (OverloadedError, 429),
    (DeadlineError, 504),
    (UnavailableError, 503),
)


class TooLargeError(Exception):
    """The body is larger than MAX_BODY_BYTES."""


LEAVING = "the gateway is draining"


class GatewayMetrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "volcast_gateway_requests", "Requests answered.", ("route", "code"), registry=self.registry
        )
        self.durations = Histogram(
            "volcast_gateway_request_duration_seconds",
            "From the request's first byte at the application to the answer's last.",
            ("route",),
            registry=self.registry,
            buckets=BUCKETS_S,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(LostLogLines())


class RequestMiddleware:
    """ASGI middleware that counts and times each request and turns an unexpected error into a plain 500."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, log: Any) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, code = perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                if scope["app"].state.leaving:  # callers open their next connection elsewhere
                    MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            self._log.exception("request_failed", path=scope["path"][:200])
            if not code:
                await error_response(500, "internal error")(scope, receive, counted)
        # The label is the route's template, so that a scan of paths cannot create new series.
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, str(code)).inc()
        self._metrics.durations.labels(route).observe(perf_counter() - began_s)


def error_response(
    code: int, error: str, violations: list[Violation] | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    body = ErrorBody(error=error, violations=violations or [])
    return JSONResponse(body.model_dump(), code, headers)


def response_for(error: VolcastError) -> JSONResponse:
    """Maps an error of common.errors to an HTTP response."""
    code = next((code for kind, code in HTTP_CODES if isinstance(error, kind)), 500)
    violations = named_violations(error.violations) if isinstance(error, RequestError) else []
    line = one_line(violations) or str(error)
    headers = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    elif code == 401:
        headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 section 11.6.1: a 401 names the scheme
    elif code == 503:
        headers["Retry-After"] = "1"
    return error_response(code, "internal error" if code == 500 else line, violations, headers)


async def limited_body(request: Request) -> bytes:
    """Returns the body; raises TooLargeError as soon as more than MAX_BODY_BYTES have arrived."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise TooLargeError
        chunks.append(chunk)
    return b"".join(chunks)
