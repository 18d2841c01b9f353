"""Checks tokens before grpc.aio's handlers run, without an interceptor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from common.errors import UnauthenticatedError
from server.security.tokens import Gate, authorization


class AuthenticatedHandlers(grpc.GenericRpcHandler):
    """All handlers of a server by path. A caller that the gate refuses cannot even learn which paths exist.

    A single generic handler serves all methods, since grpc tries the generic handlers of a server in sequence for
    every call.
    """

    def __init__(self, gate: Gate, handlers: Mapping[str, Any]) -> None:
        """handlers: results of grpc.*_rpc_method_handler(), by path such as "/volcast.v1.InferenceService/Predict"."""
        self._gate = gate
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        path = handler_call_details.method
        try:
            self._gate.admit(path, authorization(handler_call_details.invocation_metadata or ()))
        except UnauthenticatedError as error:
            return _refusal(str(error))
        return self._handlers.get(path)


def _refusal(text: str) -> Any:
    async def refuse(requests: object, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, text)

    # A stream handler also for unary methods: it refuses the call before the request message has arrived.
    return grpc.stream_stream_rpc_method_handler(refuse)
