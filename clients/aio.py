"""The client for programs with an event loop: clients.sync with awaitable methods.

    from clients.aio import AsyncClient

    async with AsyncClient("127.0.0.1:50051") as client:
        model = (await client.health()).models[0]
        response = await client.predict_named([{feature.name: 0.5 for feature in model.features}])

It raises the errors of clients.sync. On uvloop its streams are several times faster than on the default loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import Message

from clients.errors import translate
from clients.requests import METHOD_PREFIX, fill_packed, named_request, packed_request
from clients.sync import PLAINTEXT
from common.access import Access, Metadata
from common.errors import DeadlineError, UnavailableError, VolcastError
from common.proxies import channel_options
from common.rpc_status import from_status
from volcast.v1 import (
    HealthRequest,
    HealthResponse,
    ModelSelector,
    PredictRequest,
    PredictResponse,
    StreamPredictRequest,
    StreamPredictResponse,
)

if TYPE_CHECKING:
    from typing import Self

    from clients.requests import PackedValues

Response = TypeVar("Response", PredictResponse, HealthResponse)

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # A server that restarts on this machine is ready within a second; the default first wait is a second.
    # min_reconnect_backoff keeps its default, since it also bounds the time that connecting may take.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
    # A restarted container may have a new address. Resolve its name again after a second, not after thirty.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
)


class AsyncClient:
    """A connection to an inference server, built on the running event loop. Arguments as in clients.sync.Client."""

    def __init__(self, target: str = "127.0.0.1:50051", *, timeout_s: float = 2.0, access: Access = PLAINTEXT) -> None:
        self.target = target
        self._timeout_s = timeout_s
        self._metadata = access.metadata
        credentials = access.credentials()
        options = (*CHANNEL_OPTIONS, *channel_options(target))
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=options)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options=options)
        self._predict = self._channel.unary_unary(
            METHOD_PREFIX + "Predict", PredictRequest.SerializeToString, PredictResponse.FromString
        )
        self._health = self._channel.unary_unary(
            METHOD_PREFIX + "Health", HealthRequest.SerializeToString, HealthResponse.FromString
        )

    async def predict(self, request: PredictRequest) -> PredictResponse:
        """Sends any request of the contract. The methods below build the usual requests."""
        return await self._call(self._predict, request)

    async def predict_named(
        self, rows: Sequence[Mapping[str, float]], *, model: ModelSelector | None = None, routing_key: str = ""
    ) -> PredictResponse:
        """Scores rows given as feature name to value. `probabilities` has one value per row, in order."""
        return await self._call(self._predict, named_request(rows, model, routing_key))

    async def predict_packed(
        self,
        values: PackedValues,
        row_count: int,
        schema_hash: str,
        *,
        model: ModelSelector | None = None,
        routing_key: str = "",
    ) -> PredictResponse:
        """Scores a row-major float64 matrix (row_count, features), such as a C-contiguous NumPy array."""
        return await self._call(self._predict, packed_request(values, row_count, schema_hash, model, routing_key))

    async def health(self) -> HealthResponse:
        """Models, versions and readiness of the server. Works before the server is ready, too."""
        return await self._call(self._health, HealthRequest())

    def stream(self) -> AsyncPredictStream:
        """A prediction stream over this connection. Its first frame opens it."""
        return AsyncPredictStream(self._channel, self.target, self._timeout_s, self._metadata)

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, method: Callable[..., Awaitable[Response]], request: Message) -> Response:
        try:
            return await method(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise translate(error, self.target) from None


class AsyncPredictStream:
    """A StreamPredict call. Either a single task sends and receives, or one task does each.

    See clients.sync.PredictStream.

    async with client.stream() as stream:
        for frame_id, request in enumerate(requests):
            await stream.send(frame_id, request)
        await stream.done()
        async for answer in stream:
            ...
    """

    def __init__(
        self, channel: grpc.aio.Channel, target: str, timeout_s: float, metadata: Metadata | None = None
    ) -> None:
        self._open = channel.stream_stream(
            METHOD_PREFIX + "StreamPredict", StreamPredictRequest.SerializeToString, StreamPredictResponse.FromString
        )
        self._target = target
        self._timeout_s = timeout_s
        self._metadata = metadata
        self._call: Any = None
        self._next_id = 0

    async def send(self, frame_id: int, request: PredictRequest) -> None:
        """Sends a frame. Under back-pressure of the server it waits, at most for the client's timeout_s."""
        await self._write(StreamPredictRequest(frame_id=frame_id, request=request))

    async def done(self) -> None:
        """Ends the sending side. Outstanding answers still arrive."""
        if self._call is not None:
            await self._call.done_writing()

    async def receive(self, timeout_s: float | None = None) -> StreamPredictResponse | None:
        """The next answer, in the order of the frames. After `done`, None follows the last answer.

        timeout_s: limit of this wait; None: the client's.

        Raises UnavailableError if the stream breaks, and DeadlineError if no answer arrives in time. Both end
        the stream, and the next `send` opens a new call.
        """
        if self._call is None:
            raise UnavailableError(self._line("no frame is in flight"))
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit_s):
                answer = await self._call.read()
        except TimeoutError:
            raise self._broken(DeadlineError(self._line(f"no answer on the stream within {limit_s:g} s"))) from None
        except grpc.RpcError as error:
            raise self._broken(translate(error, self._target)) from None
        if answer is grpc.aio.EOF:
            self._call = None
            return None
        received: StreamPredictResponse = answer
        return received

    async def predict_packed(
        self, values: PackedValues, row_count: int, schema_hash: str, timeout_s: float | None = None
    ) -> PredictResponse:
        """Sends a frame of packed rows and waits for its answer. No other frame may be in flight."""
        self._next_id += 1
        frame = StreamPredictRequest(frame_id=self._next_id)
        fill_packed(frame.request.packed, values, row_count, schema_hash)
        await self._write(frame)
        answer = await self.receive(timeout_s)
        if answer is None:
            raise UnavailableError(self._line("closed the stream"))
        if answer.HasField("error"):
            raise from_status(answer.error, self._target)
        return answer.response

    async def close(self) -> None:
        """Ends the stream and drops outstanding answers."""
        self._drop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamPredictResponse:
        answer = await self.receive()
        if answer is None:
            raise StopAsyncIteration
        return answer

    async def _write(self, frame: StreamPredictRequest) -> None:
        if self._call is None:
            self._call = self._open(metadata=self._metadata)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._call.write(frame)
        except TimeoutError:
            raise self._broken(
                DeadlineError(self._line(f"did not accept a frame within {self._timeout_s:g} s"))
            ) from None
        except grpc.RpcError as error:
            # If the connection has just closed, grpc.aio reports the write as INTERNAL.
            failure = translate(error, self._target)
            if not isinstance(failure, UnavailableError):
                failure = UnavailableError(self._line("the connection broke while a frame was sent"))
            raise self._broken(failure) from None
        except asyncio.InvalidStateError:
            # The write only reports that the call has ended. Reading raises the reason.
            await self.receive()
            raise self._broken(UnavailableError(self._line("closed the stream"))) from None

    def _line(self, what: str) -> str:
        return f"inference server at {self._target}: {what}"

    def _broken(self, error: VolcastError) -> VolcastError:
        self._drop()
        return error

    def _drop(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
