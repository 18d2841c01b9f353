"""Bearer tokens at the REST door: everything needs one but what probes, scrapers and the docs page ask for."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from common.errors import UnauthenticatedError
from server.gateway.middleware import response_for
from server.security.tokens import HEADER, Gate

# Exact paths, as the router compares them; what is added later is closed until it is named here.
OPEN = frozenset({"/", "/health", "/metrics", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready"})
OPEN_FOLDER = "/docs-assets/"
_ADMITTED = "volcast.admitted"


class Doorkeeper:
    """ASGI middleware. gate: one that opens no path by itself."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        shown = Headers(scope=scope).getlist(HEADER)
        try:
            self._gate.admit(path, shown[0] if len(shown) == 1 else None)
            scope[_ADMITTED] = True
        except UnauthenticatedError as error:
            if path not in OPEN and not path.startswith(OPEN_FOLDER):
                await response_for(error)(scope, receive, send)
                return
            scope[_ADMITTED] = False
        await self._app(scope, receive, send)


def admitted(request: Request) -> bool:
    """Whether the caller may be told what a probe need not know."""
    return bool(request.scope[_ADMITTED])
