"""The client for programs with an event loop: clients.sync with awaitable methods.

    from clients.aio import AsyncClient

    async with AsyncClient("127.0.0.1:50051") as client:
        model = (await client.health()).models[0]
        response = await client.predict_named([{feature.name: 0.5 for feature in model.features}])

clients.sync describes spike sizes, quantiles and errors. On uvloop its streams are several times faster than on the
default loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

from google.protobuf.message import Message
from google.rpc import code_pb2

from clients.async_link import AsyncLink
from clients.http2 import ClientCall, Fields, Status
from clients.opening import Route
from clients.requests import Methods, Query, Response, decoded, failure, fill_packed, named_request, packed_request
from common.access import Access
from common.errors import DeadlineError, UnavailableError, VolcastError
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

PLAINTEXT = Access()


class AsyncClient:
    """A connection to an inference server, on the running event loop. Arguments as in clients.sync.Client.

    The first call opens it; a later call opens it again if it broke.
    """

    def __init__(self, target: str = "127.0.0.1:50051", *, timeout_s: float = 2.0, access: Access = PLAINTEXT) -> None:
        self.target = target
        self._timeout_s = timeout_s
        self._route = Route(target, access)
        self._methods = Methods.of(self._route, timeout_s)
        self._link: AsyncLink | None = None

    async def predict(self, request: PredictRequest) -> PredictResponse:
        """Sends any request of the contract. The methods below build the usual requests."""
        return await self._call(self._methods.predict, request, PredictResponse)

    async def predict_named(
        self,
        rows: Sequence[Mapping[str, float]],
        *,
        model: ModelSelector | None = None,
        routing_key: str = "",
        **query: Unpack[Query],
    ) -> PredictResponse:
        """Scores rows given as feature name to value. `probabilities` has one value per row, in order.

        query: spike_bps or spike_multiple, and quantiles (clients.requests.Query).
        """
        return await self.predict(named_request(rows, model, routing_key, **query))

    async def predict_packed(
        self,
        values: PackedValues,
        row_count: int,
        schema_hash: str,
        *,
        model: ModelSelector | None = None,
        routing_key: str = "",
        **query: Unpack[Query],
    ) -> PredictResponse:
        """Scores a row-major float64 matrix (row_count, features), such as a C-contiguous NumPy array.

        query: as in `predict_named`.
        """
        return await self.predict(packed_request(values, row_count, schema_hash, model, routing_key, **query))

    async def health(self) -> HealthResponse:
        """Models, versions and readiness of the server. Works before the server is ready, too."""
        return await self._call(self._methods.health, HealthRequest(), HealthResponse)

    def stream(self) -> AsyncPredictStream:
        """A prediction stream over this connection. Its first frame opens it."""
        return AsyncPredictStream(self, self._methods.stream, self._timeout_s)

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def link(self) -> AsyncLink:
        """The connection for a new call. Waits while the server takes no more calls at the same time."""
        while True:
            if self._link is None or not self._link.usable:
                self._link = AsyncLink(self._route)
            link = self._link
            await link.room()
            if link.usable:
                return link

    def retire(self) -> None:
        """After a deadline: the connection may be dead, so later calls take another, unless it is only being opened."""
        if self._link is not None and not self._link.is_opening:
            self._link.retire()

    async def _call(self, fields: Fields, request: Message, kind: type[Response]) -> Response:
        message = request.SerializeToString()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._attempt(fields, message)
                if isinstance(answer, Status) and answer.unprocessed:  # the server was about to close the connection
                    answer = await self._attempt(fields, message)
        except TimeoutError:
            self.retire()
            answer = Status(code_pb2.DEADLINE_EXCEEDED, f"no answer within {self._timeout_s:g} s")
        if isinstance(answer, Status):
            raise failure(answer, self.target)
        return decoded(kind, answer, self.target)

    async def _attempt(self, fields: Fields, message: bytes) -> bytes | Status:
        """The response, or why there is none."""
        link = await self.link()
        call = link.open(fields)
        link.send(call, message, end=True)
        try:
            while call.status is None:
                await link.changed(call)
        finally:
            link.cancel(call)  # if the caller's task is cancelled or out of time
        return call.single_message()


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

    def __init__(self, client: AsyncClient, fields: Fields, timeout_s: float) -> None:
        self._client = client
        self._fields = fields
        self._timeout_s = timeout_s
        self._link: AsyncLink | None = None
        self._call: ClientCall | None = None
        self._next_id = 0

    async def send(self, frame_id: int, request: PredictRequest) -> None:
        """Sends a frame. Under back-pressure of the server it waits, at most for the client's timeout_s."""
        await self._write(StreamPredictRequest(frame_id=frame_id, request=request))

    async def done(self) -> None:
        """Ends the sending side. Outstanding answers still arrive."""
        if self._call is not None and self._link is not None:
            self._link.finish(self._call)

    async def receive(self, timeout_s: float | None = None) -> StreamPredictResponse | None:
        """The next answer, in the order of the frames. After `done`, None follows the last answer.

        timeout_s: limit of this wait; None: the client's.

        Raises UnavailableError if the stream breaks, and DeadlineError if no answer arrives in time. Both end
        the stream, and the next `send` opens a new call.
        """
        call, link = self._call, self._link
        if call is None or link is None:
            raise UnavailableError(self._line("no frame is in flight"))
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            if not call.messages and call.status is None:
                async with asyncio.timeout(limit_s):
                    while not call.messages and call.status is None:
                        await link.changed(call)
        except TimeoutError:
            raise self._timed_out(f"no answer on the stream within {limit_s:g} s") from None
        if call.messages:
            return decoded(StreamPredictResponse, call.messages.popleft(), self._client.target)
        self._call = None
        assert call.status is not None
        if call.status.code == code_pb2.OK:
            return None
        raise failure(call.status, self._client.target)

    async def predict_packed(
        self,
        values: PackedValues,
        row_count: int,
        schema_hash: str,
        timeout_s: float | None = None,
        **query: Unpack[Query],
    ) -> PredictResponse:
        """Sends a frame of packed rows and waits for its answer. No other frame may be in flight."""
        self._next_id += 1
        frame = StreamPredictRequest(frame_id=self._next_id)
        if query:
            frame.request.MergeFrom(PredictRequest(**query))
        fill_packed(frame.request.packed, values, row_count, schema_hash)
        await self._write(frame)
        answer = await self.receive(timeout_s)
        if answer is None:
            raise UnavailableError(self._line("closed the stream"))
        if answer.HasField("error"):
            raise from_status(answer.error, self._client.target)
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
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._call is None:
                    self._link = await self._client.link()
                    self._call = self._link.open(self._fields)
                call, link = self._call, self._link
                assert link is not None
                link.send(call, frame.SerializeToString())
                await link.sent(call)
        except TimeoutError:
            raise self._timed_out(f"did not accept a frame within {self._timeout_s:g} s") from None
        if call.status is not None and not call.messages:
            self._call = None
            if call.status.code == code_pb2.OK:
                raise UnavailableError(self._line("closed the stream"))
            raise failure(call.status, self._client.target)

    def _line(self, what: str) -> str:
        return f"inference server at {self._client.target}: {what}"

    def _timed_out(self, what: str) -> VolcastError:
        self._drop()
        self._client.retire()
        return DeadlineError(self._line(what))

    def _drop(self) -> None:
        if self._call is not None and self._link is not None:
            self._link.cancel(self._call)
        self._call = None
