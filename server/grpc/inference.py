"""InferenceService: bytes in, bytes out.

Handlers take and give serialized messages. grpcio answers a request it cannot parse with UNKNOWN and the
parser's own text; parsed here, it is INVALID_ARGUMENT like any other request that is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2
from grpc.aio import EOF, AbortError

from common.errors import DeadlineError, RequestError, UnavailableError
from common.rpc_status import DETAILS_KEY, to_status
from server.core.dataplane import DataPlane
from server.core.requests import Result
from server.grpc.convert import health_response, predict_input, predict_response
from server.metrics import ServerMetrics
from server.state import ServerState
from volcast.v1 import PredictRequest, StreamPredictRequest, StreamPredictResponse

SERVICE = "volcast.v1.InferenceService"
# More rows than this are scored on another thread: a thousand rows of the slowest model we serve take
# about a millisecond, and health checks should wait no longer for the loop than that.
INLINE_ROWS = 1024
# A stream that has sent nothing for so long has no frame on its way, and can be ended by a drain.
IDLE_NS = 50_000_000

_CODES = {code.value[0]: code for code in grpc.StatusCode}
Context = Any  # grpc.aio.ServicerContext; its stubs do not know that read() may give EOF


class InferenceDoor:
    """The handlers. log: takes events with fields, as structlog's loggers do."""

    def __init__(self, plane: DataPlane, state: ServerState, metrics: ServerMetrics, log: Any) -> None:
        self._plane = plane
        self._state = state
        self._metrics = metrics
        self._log = log
        self._now_ns = plane.now_ns
        self._streams: dict[Context, int] = {}  # when each was last heard of, on the plane's clock

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Predict": grpc.unary_unary_rpc_method_handler(self.predict),
                "StreamPredict": grpc.stream_stream_rpc_method_handler(self.stream_predict),
                "Health": grpc.unary_unary_rpc_method_handler(self.health),
            },
        )

    async def predict(self, raw: bytes, context: Context) -> bytes:
        arrived_ns = self._now_ns()
        try:
            self._state.require_ready()
            _require_time(context)
            answer = predict_response(await self._score(_parse(PredictRequest, raw), arrived_ns))
        except Exception as error:
            status = self._status_of(error)
            self._metrics.request("Predict", _CODES[status.code].name, self._now_ns() - arrived_ns)
            await abort(context, status)
        self._metrics.request("Predict", "OK", self._now_ns() - arrived_ns)
        return answer.SerializeToString()

    async def stream_predict(self, requests: AsyncIterator[bytes], context: Context) -> None:
        try:
            self._state.require_ready()
        except UnavailableError as error:
            await abort(context, to_status(error))
        self._streams[context] = self._now_ns()
        try:
            # Reader and writer rather than a generator: both measured alike, and a drain that aborts the
            # context ends this read.
            while (raw := await context.read()) is not EOF:
                arrived_ns = self._streams[context] = self._now_ns()
                await context.write(await self._frame(raw, arrived_ns))
        finally:
            del self._streams[context]

    async def _frame(self, raw: bytes, arrived_ns: int) -> bytes:
        frame_id = 0  # of a frame that cannot be parsed
        try:
            frame = _parse(StreamPredictRequest, raw)
            frame_id = frame.frame_id
            if not frame.HasField("request"):
                raise RequestError.of("request", "expected a PredictRequest, got none")
            response = predict_response(await self._score(frame.request, arrived_ns))
            answer, code = StreamPredictResponse(frame_id=frame_id, response=response), "OK"
        except Exception as error:
            status = self._status_of(error)
            answer, code = StreamPredictResponse(frame_id=frame_id, error=status), _CODES[status.code].name
        self._metrics.request("StreamPredict", code, self._now_ns() - arrived_ns)
        return answer.SerializeToString()

    async def _score(self, request: PredictRequest, arrived_ns: int) -> Result:
        job = self._plane.prepare(predict_input(request), arrived_ns)
        rows = job.matrix.shape[0]
        if rows <= INLINE_ROWS:
            result = self._plane.compute(job)
        else:
            result = await asyncio.get_running_loop().run_in_executor(None, self._plane.compute, job)
        self._metrics.scored(job.model.name, job.model.version, rows, result.compute_ns)
        return result

    async def health(self, raw: bytes, context: Context) -> bytes:
        arrived_ns = self._now_ns()
        repository = self._plane.repository
        answer = health_response(repository.held, repository.default_model, self._state)
        self._metrics.request("Health", "OK", self._now_ns() - arrived_ns)
        return answer.SerializeToString()

    async def end_idle_streams(self) -> None:
        """Ends the streams with no frame on its way; their callers open another, on another replica."""
        status = to_status(UnavailableError("the server is draining"))
        now_ns = self._now_ns()
        for context in [one for one, heard_ns in self._streams.items() if now_ns - heard_ns > IDLE_NS]:
            try:
                await abort(context, status)
            except AbortError:
                continue

    def _status_of(self, error: Exception) -> Any:
        status = to_status(error)
        if status.code == code_pb2.INTERNAL:
            self._log.error("request_failed", exc_info=error)
        return status


async def abort(context: Context, status: Any) -> NoReturn:
    """Ends the call with a rich status, by grpc.aio's AbortError."""
    await context.abort(_CODES[status.code], status.message, ((DETAILS_KEY, status.SerializeToString()),))
    raise AssertionError("unreachable: abort raises")


def _parse(kind: Any, raw: bytes) -> Any:
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise RequestError.of("request", f"the bytes are no {kind.DESCRIPTOR.full_name}") from None


def _require_time(context: Context) -> None:
    remaining_s = context.time_remaining()
    if remaining_s is not None and remaining_s <= 0:
        raise DeadlineError("the deadline had passed before the model ran")
