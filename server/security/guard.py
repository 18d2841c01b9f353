"""The gate in front of grpc.aio's handlers, without an interceptor: one dict lookup deeper, no extra coroutine."""

from __future__ import annotations

from typing import Any

import grpc

from common.errors import UnauthenticatedError
from server.security.tokens import Gate, authorization


class Guarded(grpc.GenericRpcHandler):
    """A handler whose methods, and even whose names, are only there for those the gate admits.

    The first handler added to a server answers for all: `Guarded(gate, handlers)` takes them all.
    """

    def __init__(self, gate: Gate, handlers: list[grpc.GenericRpcHandler]) -> None:
        self._gate = gate
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        try:
            self._gate.admit(handler_call_details.method, authorization(handler_call_details.invocation_metadata or ()))
        except UnauthenticatedError as error:
            return _refusal(str(error))
        for handler in self._handlers:
            found = handler.service(handler_call_details)
            if found is not None:
                return found
        return None


def _refusal(text: str) -> Any:
    async def refuse(requests: object, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, text)

    # As a stream, whatever the method is: a message that is on its way is not waited for.
    return grpc.stream_stream_rpc_method_handler(refuse)
