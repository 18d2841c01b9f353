"""The client for programs without an event loop. Threads may share a Client, but not a PredictStream.

    from clients.sync import Client

    with Client("127.0.0.1:50051") as client:
        model = client.health().models[0]
        response = client.predict_named([{feature.name: 0.5 for feature in model.features}])
        print(response.probabilities[0] >= response.threshold)

If the model forecasts a distribution (`ModelStatus.spike_bps` is not 0), every method takes a spike size in basis
points of realized volatility, or a multiple of the trailing hour's volatility, and levels of quantiles:

    response = client.predict_packed(matrix, len(matrix), model.schema_hash, spike_bps=5.0, quantiles=[0.1, 0.5, 0.9])
    response.probabilities, response.median_bps  # one per row: P(volatility >= spike size); the median in bps
    response.spike_bps, response.base_rate       # the spike size; the share of the training rows at or above it
    quantile_rows(response)                      # (rows, levels), in bps; from clients.requests

Every method raises errors of common.errors. RequestError names the invalid fields, UnavailableError names
the server that cannot be reached, and OverloadedError carries the time after which to retry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Unpack

from google.protobuf.message import Message
from google.rpc import code_pb2

from clients.http2 import ClientCall, Fields, Status
from clients.link import Link
from clients.opening import Route
from clients.requests import Methods, Query, Response, decoded, failure, fill_packed, named_request, packed_request
from common.access import Access
from common.errors import DeadlineError, UnavailableError
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


class Client:
    """Connections to an inference server: a connection for each call at a time, kept for later calls.

    A connection that broke is replaced by the next call.

    target: host:port, `unix:PATH`, or another gRPC name of type dns, ipv4 or ipv6.
    timeout_s: limit of each call.
    access: token, TLS and client certificate, such as `make_access(token=..., ca="ca.pem")`.
    """

    def __init__(self, target: str = "127.0.0.1:50051", *, timeout_s: float = 2.0, access: Access = PLAINTEXT) -> None:
        self.target = target
        self._timeout_s = timeout_s
        self._route = Route(target, access)
        self._methods = Methods.of(self._route, timeout_s)
        self._idle: deque[Link] = deque()  # its methods are atomic, so threads share it without a lock
        self._closed = False

    def predict(self, request: PredictRequest) -> PredictResponse:
        """Sends any request of the contract. The methods below build the usual requests."""
        return self._call(self._methods.predict, request, PredictResponse)

    def predict_named(
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
        return self.predict(named_request(rows, model, routing_key, **query))

    def predict_packed(
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
        return self.predict(packed_request(values, row_count, schema_hash, model, routing_key, **query))

    def health(self) -> HealthResponse:
        """Models, versions and readiness of the server. Works before the server is ready, too."""
        return self._call(self._methods.health, HealthRequest(), HealthResponse)

    def stream(self) -> PredictStream:
        """A prediction stream. Its first frame opens it, on a connection of its own."""
        return PredictStream(self, self._methods.stream, self._timeout_s)

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self) -> Link:
        """A connection for one call or stream: an idle connection that still works, or a new one."""
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                return Link(self._route)
            if link.refresh():
                return link
            link.close()

    def give_back(self, link: Link) -> None:
        """Keeps a connection for later calls, unless it is lost."""
        self._idle.append(link)
        if self._closed:
            self.close()

    def _call(self, fields: Fields, request: Message, kind: type[Response]) -> Response:
        message = request.SerializeToString()
        deadline_s = monotonic() + self._timeout_s
        status = self._attempt(fields, message, deadline_s)
        if isinstance(status, Status) and status.unprocessed:  # the server was about to close the connection
            status = self._attempt(fields, message, deadline_s)
        if isinstance(status, Status):
            raise failure(status, self.target)
        return decoded(kind, status, self.target)

    def _attempt(self, fields: Fields, message: bytes, deadline_s: float) -> bytes | Status:
        """The response, or why there is none."""
        link = self.take()
        call = link.open(fields)
        link.send(call, message, end=True)
        while call.status is None:
            left_s = deadline_s - monotonic()
            if left_s <= 0:
                self._give_up(link, call)
                return Status(code_pb2.DEADLINE_EXCEEDED, f"no answer within {self._timeout_s:g} s")
            link.pump(left_s)
        self.give_back(link)
        return call.single_message()

    def _give_up(self, link: Link, call: ClientCall) -> None:
        """After a deadline: the connection may be dead, unless it is only being opened."""
        if link.is_opening:
            link.cancel(call)
            self.give_back(link)
        else:
            link.close()


class PredictStream:
    """A StreamPredict call, for use by a single thread. After it broke, the next frame opens a new call.

        with Client() as client, client.stream() as stream:
            response = stream.predict_packed(matrix, len(matrix), schema_hash)

    To keep several frames in flight, `send` them and then `receive` the answers. If the stream breaks,
    unanswered frames are lost: UnavailableError is raised once, `in_flight` becomes 0, and the next
    `send` opens a new call.

    The caller's thread reads and writes the socket: a second thread would cost a hand-over for each answer.
    """

    def __init__(self, client: Client, fields: Fields, timeout_s: float) -> None:
        self._client = client
        self._fields = fields
        self._timeout_s = timeout_s
        self._link: Link | None = None
        self._call: ClientCall | None = None
        self._next_id = 0
        self.in_flight = 0

    def send(self, frame_id: int, request: PredictRequest) -> None:
        """Queues a frame for sending and returns at once."""
        self._put(StreamPredictRequest(frame_id=frame_id, request=request))

    def send_packed(
        self,
        frame_id: int,
        values: PackedValues,
        row_count: int,
        schema_hash: str,
        model: ModelSelector | None = None,
        **query: Unpack[Query],
    ) -> None:
        """Queues a frame of packed rows (see Client.predict_packed) without copying the rows twice."""
        frame = StreamPredictRequest(frame_id=frame_id)
        if query:
            frame.request.MergeFrom(PredictRequest(**query))
        if model is not None:
            frame.request.model.CopyFrom(model)
        fill_packed(frame.request.packed, values, row_count, schema_hash)
        self._put(frame)

    def receive(self, timeout_s: float | None = None) -> StreamPredictResponse:
        """The next answer, in the order of the frames. If the server refused the frame, `error` is set.

        timeout_s: limit of this wait; None: the client's.

        Raises UnavailableError if the stream breaks, and DeadlineError if no answer arrives in time. Both end
        the stream.
        """
        if self._call is None:
            raise UnavailableError(f"inference server at {self._client.target}: no frame is in flight")
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        answer = self.poll(limit_s)
        if answer is None:
            self.close()
            line = f"inference server at {self._client.target}: no answer on the stream within {limit_s:g} s"
            raise DeadlineError(line)
        return answer

    def poll(self, timeout_s: float) -> StreamPredictResponse | None:
        """The next answer, as `receive`. None if no answer arrives in time; then the stream continues.

        Raises UnavailableError if the stream breaks.
        """
        call, link = self._call, self._link
        if call is None or link is None:
            return None
        if not call.messages and call.status is None:
            deadline_s = monotonic() + timeout_s
            link.pump(timeout_s)
            while not call.messages and call.status is None:
                left_s = deadline_s - monotonic()
                if left_s <= 0:
                    return None
                link.pump(left_s)
        if call.messages:
            self.in_flight -= 1
            return decoded(StreamPredictResponse, call.messages.popleft(), self._client.target)
        self.close()
        assert call.status is not None
        raise failure(call.status, self._client.target)

    def predict_packed(
        self,
        values: PackedValues,
        row_count: int,
        schema_hash: str,
        timeout_s: float | None = None,
        model: ModelSelector | None = None,
        **query: Unpack[Query],
    ) -> PredictResponse:
        """Sends a frame of packed rows and waits for its answer. No other frame may be in flight."""
        if self.in_flight:
            raise ValueError(f"{self.in_flight} frames are in flight; receive their answers first")
        self._next_id += 1
        self.send_packed(self._next_id, values, row_count, schema_hash, model, **query)
        answer = self.receive(timeout_s)
        if answer.HasField("error"):
            raise from_status(answer.error, self._client.target)
        return answer.response

    def close(self) -> None:
        """Ends the stream and drops outstanding answers. The next frame opens a new call."""
        call, link = self._call, self._link
        self._call = None
        self.in_flight = 0
        if call is not None and link is not None:
            if link.is_opening:  # a slow opening outlasts attempts to use it
                link.cancel(call)
            else:
                link.close()
                self._link = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if self._link is not None:
            self._link.close()
            self._link = None

    def _put(self, frame: StreamPredictRequest) -> None:
        if self._call is not None and not self.in_flight and self._link is not None:
            self._link.refresh()
            if self._call.status is not None:  # the stream ended while it was idle
                self.close()
        if self._call is None:
            if self._link is None or not self._link.refresh():
                self._link = self._client.take()
            self._call = self._link.open(self._fields)
        assert self._link is not None
        self.in_flight += 1
        self._link.send(self._call, frame.SerializeToString())
