"""Bearer tokens of the REST API. All paths need a token except those of probes, scrapers and the docs page."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from common.errors import UnauthenticatedError
from server.gateway.middleware import response_for
from server.security.tokens import HEADER, Gate

# Exact paths, as the router compares them. A new route needs a token until it is listed here.
OPEN_PATHS = frozenset({"/", "/health", "/metrics", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready"})
OPEN_PREFIX = "/docs-assets/"
_ADMITTED = "volcast.admitted"


class AuthMiddleware:
    """ASGI middleware that refuses requests without a valid token. gate: must be built without open prefixes."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        headers = Headers(scope=scope).getlist(HEADER)
        try:
            self._gate.admit(path, headers[0] if len(headers) == 1 else None)
            scope[_ADMITTED] = True
        except UnauthenticatedError as error:
            if path not in OPEN_PATHS and not path.startswith(OPEN_PREFIX):
                await response_for(error)(scope, receive, send)
                return
            scope[_ADMITTED] = False
        await self._app(scope, receive, send)


def admitted(request: Request) -> bool:
    """Returns True if the caller may see details; an anonymous probe sees only whether the server is ready."""
    return bool(request.scope[_ADMITTED])
