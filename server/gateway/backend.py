"""The gateway's gRPC channel to the inference server. The gateway may start before the server."""

from __future__ import annotations

from typing import Any

import grpc

from common.access import Access
from common.errors import (
    DeadlineError,
    OverloadedError,
    RequestError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
    VolcastError,
)
from common.proxies import channel_options
from common.rpc_status import INTERNAL_TEXT, failed_call
from volcast.oip.v2.open_inference_pb2_grpc import GRPCInferenceServiceStub
from volcast.v1 import HealthRequest, HealthResponse, PredictRequest, PredictResponse
from volcast.v1.inference_pb2_grpc import InferenceServiceStub

PLAINTEXT = Access()
OPTIONS = (
    # If the gateway starts first, gRPC's default back-off would delay the first connection by many seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Backend:
    """Must be built on the running loop. Calls raise the errors of common.errors."""

    def __init__(self, server: str, timeout_s: float, log: Any, access: Access = PLAINTEXT) -> None:
        self.server = server
        self._log = log
        self._last_failure = ""
        self._metadata = access.metadata
        credentials = grpc.ssl_channel_credentials(access.ca, access.key, access.cert) if access.tls else None
        self._timeout_s = timeout_s
        options = (*OPTIONS, *channel_options(server))
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(server, options=options)
        else:
            self._channel = grpc.aio.secure_channel(server, credentials, options=options)
        self._stub: Any = InferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._protocol: Any = GRPCInferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def predict(self, request: PredictRequest) -> PredictResponse:
        response: PredictResponse = await self._call(self._stub.Predict, request)
        return response

    async def health(self) -> HealthResponse:
        response: HealthResponse = await self._call(self._stub.Health, HealthRequest())
        return response

    async def inference_protocol(self, method: str, request: Any) -> Any:
        """Calls a method of the Open Inference Protocol. request, result: messages of volcast.oip.v2."""
        return await self._call(getattr(self._protocol, method), request)

    async def close(self) -> None:
        await self._channel.close()

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            response = await method(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise self._public_error(self._from_grpc(error)) from None
        self._last_failure = ""
        return response

    def _public_error(self, error: VolcastError) -> VolcastError:
        """Returns the error for the caller, without addresses and texts of gRPC.

        The full reason is logged once per outage.
        """
        if isinstance(error, UnauthenticatedError):
            public: VolcastError = UnavailableError("the inference server does not accept this gateway's token")
        elif isinstance(error, DeadlineError):
            public = DeadlineError("the inference server did not answer in time")
        elif isinstance(error, UnavailableError):
            public = UnavailableError("the inference server is unreachable, starting or draining")
        elif isinstance(error, UnsupportedError):
            public = UnsupportedError("the inference server does not support this")
        elif isinstance(error, RequestError | OverloadedError):
            return error
        else:
            public = VolcastError(INTERNAL_TEXT)
        if str(public) != self._last_failure:
            self._last_failure = str(public)
            self._log.warning("server_failed", server=self.server, reason=str(error))
        return public

    def _from_grpc(self, error: grpc.aio.AioRpcError) -> VolcastError:
        trailers: Any = error.trailing_metadata() or ()
        code: int = error.code().value[0]
        return failed_call(code, error.details() or "", trailers, self.server)
