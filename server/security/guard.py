"""The gate in front of grpc.aio's handlers, without an interceptor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from common.errors import UnauthenticatedError
from server.security.tokens import Gate, authorization


class Guarded(grpc.GenericRpcHandler):
    """Handlers by path that are only there, even by name, for those the gate admits.

    One for all methods: grpc asks one generic handler after the other for each call.
    """

    def __init__(self, gate: Gate, handlers: Mapping[str, Any]) -> None:
        """handlers: what grpc.*_rpc_method_handler() makes, by path such as "/volcast.v1.InferenceService/Predict"."""
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

    # As a stream, whatever the method is: a message that is on its way is not waited for.
    return grpc.stream_stream_rpc_method_handler(refuse)
