"""The client for programs without an event loop. Threads may share a Client, but not a PredictStream.

    from clients.sync import Client

    with Client("127.0.0.1:50051") as client:
        model = client.health().models[0]
        response = client.predict_named([{feature.name: 0.5 for feature in model.features}])
        print(response.probabilities[0] >= response.threshold)

Every method raises errors of common.errors. RequestError names the invalid fields, UnavailableError names
the server that cannot be reached, and OverloadedError carries the time after which to retry.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import Message

from clients.errors import translate
from clients.requests import METHOD_PREFIX, fill_packed, named_request, packed_request
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
Outgoing = SimpleQueue[StreamPredictRequest | None]
END_TIMEOUT_S = 1.0  # how long `close` waits until grpcio releases a call
PLAINTEXT = Access()

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # A server that restarts on this machine is ready within a second; the default first wait is a second.
    # min_reconnect_backoff keeps its default, since it also bounds the time that connecting may take.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
    # A restarted container may have a new address. Resolve its name again after a second, not after thirty.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
)


class Client:
    """A connection to an inference server. The first call opens it; a later call opens it again if it broke.

    target: host:port, or any gRPC name.
    timeout_s: limit of each call.
    access: token, TLS and client certificate, such as `make_access(token=..., ca="ca.pem")`.
    """

    def __init__(self, target: str = "127.0.0.1:50051", *, timeout_s: float = 2.0, access: Access = PLAINTEXT) -> None:
        self.target = target
        self._timeout_s = timeout_s
        self._metadata = access.metadata
        credentials = access.credentials()
        options = (*CHANNEL_OPTIONS, *channel_options(target))
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options=options)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=options)
        self._predict = self._channel.unary_unary(
            METHOD_PREFIX + "Predict", PredictRequest.SerializeToString, PredictResponse.FromString
        )
        self._health = self._channel.unary_unary(
            METHOD_PREFIX + "Health", HealthRequest.SerializeToString, HealthResponse.FromString
        )

    def predict(self, request: PredictRequest) -> PredictResponse:
        """Sends any request of the contract. The methods below build the usual requests."""
        return self._call(self._predict, request)

    def predict_named(
        self, rows: Sequence[Mapping[str, float]], *, model: ModelSelector | None = None, routing_key: str = ""
    ) -> PredictResponse:
        """Scores rows given as feature name to value. `probabilities` has one value per row, in order."""
        return self._call(self._predict, named_request(rows, model, routing_key))

    def predict_packed(
        self,
        values: PackedValues,
        row_count: int,
        schema_hash: str,
        *,
        model: ModelSelector | None = None,
        routing_key: str = "",
    ) -> PredictResponse:
        """Scores a row-major float64 matrix (row_count, features), such as a C-contiguous NumPy array."""
        return self._call(self._predict, packed_request(values, row_count, schema_hash, model, routing_key))

    def health(self) -> HealthResponse:
        """Models, versions and readiness of the server. Works before the server is ready, too."""
        return self._call(self._health, HealthRequest())

    def stream(self) -> PredictStream:
        """A prediction stream over this connection. Its first frame opens it."""
        return PredictStream(self._channel, self.target, self._timeout_s, self._metadata)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: Callable[..., Response], request: Message) -> Response:
        try:
            return method(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise translate(error, self.target) from None


class PredictStream:
    """A StreamPredict call, for use by a single thread. After it broke, the next frame opens a new call.

        with Client() as client, client.stream() as stream:
            response = stream.predict_packed(matrix, len(matrix), schema_hash)

    To keep several frames in flight, `send` them and then `receive` the answers. If the stream breaks,
    unanswered frames are lost: UnavailableError is raised once, `in_flight` becomes 0, and the next
    `send` opens a new call.

    The caller's thread reads answers from grpcio. A reader thread that hands them over would cost
    15 to 40 us of a 280 us round trip. A watchdog thread therefore enforces the timeout, to within TICK_S.
    """

    TICK_S = 0.1

    def __init__(self, channel: grpc.Channel, target: str, timeout_s: float, metadata: Metadata | None = None) -> None:
        self._open = channel.stream_stream(
            METHOD_PREFIX + "StreamPredict", StreamPredictRequest.SerializeToString, StreamPredictResponse.FromString
        )
        self._target = target
        self._timeout_s = timeout_s
        self._metadata = metadata
        self._call: Any = None
        self._outgoing: Outgoing = SimpleQueue()
        self._end_call: Callable[[], object] = bool
        self._next_id = 0
        self._watchdog = _Watchdog(self.TICK_S)
        self.in_flight = 0
        weakref.finalize(self, self._watchdog.close)

    def send(self, frame_id: int, request: PredictRequest) -> None:
        """Queues a frame for sending and returns at once."""
        self._put(StreamPredictRequest(frame_id=frame_id, request=request))

    def send_packed(
        self, frame_id: int, values: PackedValues, row_count: int, schema_hash: str, model: ModelSelector | None = None
    ) -> None:
        """Queues a frame of packed rows (see Client.predict_packed) without copying the rows twice."""
        frame = StreamPredictRequest(frame_id=frame_id)
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
            raise UnavailableError(f"inference server at {self._target}: no frame is in flight")
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        self._watchdog.arm(self._call, monotonic() + limit_s)
        try:
            answer: StreamPredictResponse = next(self._call)
        except StopIteration:
            raise self._broken(UnavailableError(f"inference server at {self._target}: closed the stream")) from None
        except grpc.RpcError as error:
            if self._watchdog.fired:
                failure: VolcastError = DeadlineError(
                    f"inference server at {self._target}: no answer on the stream within {limit_s:g} s"
                )
            else:
                failure = translate(error, self._target)
            raise self._broken(failure) from None
        finally:
            self._watchdog.disarm()
        self.in_flight -= 1
        return answer

    def predict_packed(
        self,
        values: PackedValues,
        row_count: int,
        schema_hash: str,
        timeout_s: float | None = None,
        model: ModelSelector | None = None,
    ) -> PredictResponse:
        """Sends a frame of packed rows and waits for its answer. No other frame may be in flight."""
        if self.in_flight:
            raise ValueError(f"{self.in_flight} frames are in flight; receive their answers first")
        self._next_id += 1
        self.send_packed(self._next_id, values, row_count, schema_hash, model)
        answer = self.receive(timeout_s)
        if answer.HasField("error"):
            raise from_status(answer.error, self._target)
        return answer.response

    def close(self) -> None:
        """Ends the stream and drops outstanding answers."""
        self._drop()
        self._watchdog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, frame: StreamPredictRequest) -> None:
        if self._call is None:
            self._outgoing = SimpleQueue()
            self._call = self._open(iter(self._outgoing.get, None), metadata=self._metadata)
            ended = threading.Event()
            if not self._call.add_callback(ended.set):
                ended.set()
            # The finalizer also runs when the interpreter exits, in case `close` was not called.
            self._end_call = weakref.finalize(self, _end, self._call, self._outgoing, ended)
        self.in_flight += 1
        self._outgoing.put(frame)

    def _broken(self, error: VolcastError) -> VolcastError:
        self._drop()
        return error

    def _drop(self) -> None:
        self._end_call()
        self._call = None
        self.in_flight = 0


def _end(call: Any, outgoing: Outgoing, ended: threading.Event) -> None:
    """Cancels the call, ends grpcio's thread that reads the queue, and waits until grpcio releases the call.

    If the interpreter exits while grpcio's threads hold the lock of the call, it hangs: finalizers wait for
    the lock, and the threads that hold it no longer run.
    """
    call.cancel()
    outgoing.put(None)
    ended.wait(END_TIMEOUT_S)


class _Watchdog:
    """Cancels a call whose answer is overdue. Arming takes two assignments, without a lock or a wake-up."""

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._closed = threading.Event()
        self._due: tuple[Any, float] | None = None
        self._thread: threading.Thread | None = None
        self.fired = False

    def arm(self, call: Any, deadline_s: float) -> None:
        self.fired = False
        self._due = (call, deadline_s)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="volcast-stream-watchdog", daemon=True)
            self._thread.start()

    def disarm(self) -> None:
        self._due = None

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(self._tick_s):
            due = self._due
            if due is not None and monotonic() > due[1]:
                self.fired = True
                due[0].cancel()
