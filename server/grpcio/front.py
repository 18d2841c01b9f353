"""The grpcio front: serves the table of methods with a grpc.aio server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import grpc
from grpc.aio import EOF, AbortError

from common.errors import UnavailableError, VolcastError
from common.ports import BoundPort
from common.rpc_status import DETAILS_KEY, to_status
from server.core.batcher import FaultError, Work
from server.core.dataplane import Outcome, Result, ScoringJob
from server.core.requests import PredictInput
from server.grpcio.turns import LargeMessages
from server.rpc.dependencies import FrontDependencies
from server.rpc.inference import read_predict
from server.rpc.methods import Method, Scoring, ScoringStream, StreamContext, StreamMethod, Unary
from server.security.guard import AuthenticatedHandlers
from server.wire.inline import MIN_INLINE_TIMEOUT_NS, InlineScorer
from server.wire.templates import TemplateCache

DRAIN_TICK_S = 0.02
# A stream that has sent nothing for so long has no frame in flight: a drain ends it at once.
IDLE_NS = 50_000_000
# The longest time that a drain waits for such a pause. Then it ends a stream between two frames.
MAX_BUSY_STREAM_S = 1.0
# The shortest time in which gRPC core sends the status of a stream before it closes the connection.
MIN_GRACE_S = 0.2
DRAINING = "the server is draining"
REBIND_S = 0.01  # pause between attempts to bind a port that the kernel has not released yet

_CODES = {code.value[0]: code for code in grpc.StatusCode}
Context = Any  # grpc.aio.ServicerContext; its stubs do not declare that read() may return EOF


class AwaitedReply:
    """Hands the outcome of a work item to the coroutine that waits for it."""

    __slots__ = ("_future", "abandoned")

    def __init__(self, future: asyncio.Future[Result]) -> None:
        self.abandoned = False
        self._future = future

    def send(self, outcome: Outcome) -> None:
        if self._future.done():
            return
        if isinstance(outcome, Result):
            self._future.set_result(outcome)
        else:
            self._future.set_exception(outcome)


class GrpcioFront:
    """Must be built on the running loop."""

    def __init__(
        self,
        needs: FrontDependencies,
        options: Sequence[tuple[str, int]],
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._plane = needs.plane
        self._now_ns = needs.plane.now_ns
        self._batches = needs.batches
        self._state = needs.state
        self._metrics = needs.metrics
        self._log = needs.log
        self._credentials = credentials
        self._loop = asyncio.get_running_loop()
        self._streams: dict[Context, int] = {}  # time of the last frame of each stream, on the plane's clock
        self._options = list(options)
        self._templates = TemplateCache()
        self._inline = InlineScorer(needs.plane, needs.batches, needs.metrics)
        handlers = {path: self._handler(method) for path, method in needs.methods.items()}
        self._handlers = AuthenticatedHandlers(needs.gate, handlers)
        self._large_messages = LargeMessages()
        self._server = self._new_server()
        self._unscored_streams: set[Context] = set()  # calls of a StreamMethod
        self._ending = False
        self._end_after_frame = False
        self._keeper: asyncio.Task[None] | None = None

    def _new_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers((self._handlers,))
        return server

    async def start(self, *ports: BoundPort) -> None:
        """Listens on all ports. Raises UnavailableError if another process has bound a port first."""
        for port in ports:
            port.hand_over()  # gRPC binds by address and accepts no socket
            self._bind(port.address, port.port, self._server)
        await self._server.start()
        self._keeper = self._loop.create_task(self._keep_listening([(port.address, port.port) for port in ports]))

    async def start_trial(self, port: BoundPort) -> None:
        """Listens for the server's self-check, before any other port is open."""
        self._trial = self._new_server()
        port.hand_over()
        self._bind(port.address, port.port, self._trial)
        await self._trial.start()

    async def end_trial(self) -> None:
        await self._trial.stop(0)

    def forget_callers(self) -> None:
        """Does nothing: this front caches no results of token checks."""

    async def _keep_listening(self, addresses: list[tuple[str, int]]) -> None:
        """Replaces the grpc.aio server if it ends: a call whose path is no UTF-8 ends it for good (grpcio 1.85)."""
        while True:
            with suppress(UnicodeDecodeError):  # the error of such a call
                await self._server.wait_for_termination()
            if self._ending:
                return
            self._log.error("listener_lost", hint="a caller's path was no UTF-8; listening anew")
            self._server = self._new_server()
            for host, port in addresses:
                while not self._ending:
                    try:
                        self._bind(host, port, self._server)
                        break
                    except UnavailableError:
                        await asyncio.sleep(REBIND_S)
            await self._server.start()

    def _bind(self, host: str, port: int, server: grpc.aio.Server) -> int:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._credentials is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, self._credentials)
        except RuntimeError:
            raise UnavailableError(
                f"port {port} on {host}: Address already in use; choose another with --port or server.port"
            ) from None

    async def drain(self, drain_s: float) -> None:
        """Refuses new calls; pending calls get `drain_s` seconds.

        A stream ends with UNAVAILABLE when it pauses, or after MAX_BUSY_STREAM_S between two frames.
        """
        self._ending = True
        began_s = self._loop.time()
        busy_s = min(MAX_BUSY_STREAM_S, drain_s / 2)
        stopped = asyncio.ensure_future(self._server.stop(max(drain_s, MIN_GRACE_S)))
        while not stopped.done():
            self._end_after_frame = self._loop.time() - began_s >= busy_s
            await self._end_streams(even_busy=self._end_after_frame)
            await asyncio.wait([stopped], timeout=DRAIN_TICK_S)
        await stopped

    def _handler(self, method: Method) -> Any:
        if isinstance(method, Unary):
            return grpc.unary_unary_rpc_method_handler(self._unary(method))
        if isinstance(method, Scoring):
            return grpc.unary_unary_rpc_method_handler(self._scoring(method))
        if isinstance(method, ScoringStream):
            return grpc.stream_stream_rpc_method_handler(self._scoring_stream(method))
        if method.one_request:
            return grpc.unary_stream_rpc_method_handler(self._one_request(method))
        return grpc.stream_stream_rpc_method_handler(self._bidirectional(method))

    def _unary(self, method: Unary) -> Any:
        async def handle(raw: bytes, context: Context) -> bytes:
            arrived_ns = self._now_ns()
            await self._large_messages.turn(raw)
            try:
                response = method.respond(raw)
            except Exception as error:
                await self._fail(context, method.name, error, arrived_ns)
            self._metrics.request(method.name, "OK", self._now_ns() - arrived_ns)
            return response

        return handle

    def _scoring(self, method: Scoring) -> Any:
        async def handle(raw: bytes, context: Context) -> bytes:
            arrived_ns = self._now_ns()
            await self._large_messages.turn(raw)
            try:
                if not self._batches.batcher.room:
                    raise self._batches.overloaded
                remaining_s = context.time_remaining()
                deadline_ns = None if remaining_s is None else arrived_ns + int(remaining_s * 1e9)
                if method.packed and (response := self._score_inline(raw, deadline_ns, arrived_ns)) is not None:
                    self._inline.observe(method.name, arrived_ns)
                    return response
                request, encode = method.decode(raw)
                self._state.require_accepting()
                job = self._plane.prepare(request, arrived_ns)
                if method.packed:
                    self._templates.learn(raw, request, read_predict)
                response = encode(await self._run(job, deadline_ns))
            except Exception as error:
                await self._fail(context, method.name, error, arrived_ns)
            self._metrics.request(method.name, "OK", self._now_ns() - arrived_ns)
            return response

        return handle

    def _score_inline(self, raw: bytes, deadline_ns: int | None, arrived_ns: int) -> bytes | None:
        """Returns the response to a request that matches a template, or None.

        grpc.aio delivers calls individually, so a batch would rarely contain more than a single call.
        """
        if not self._batches.idle or not self._state.accepting:
            return None
        if deadline_ns is not None and deadline_ns - arrived_ns < MIN_INLINE_TIMEOUT_NS:
            return None
        template = self._templates.match(raw)
        return None if template is None else self._inline.score(template, raw[template.values], arrived_ns)

    async def _score(self, request: PredictInput, arrived_ns: int) -> Result:
        self._state.require_accepting()
        return await self._run(self._plane.prepare(request, arrived_ns), None)

    async def _run(self, job: ScoringJob, deadline_ns: int | None) -> Result:
        future: asyncio.Future[Result] = self._loop.create_future()
        reply = AwaitedReply(future)
        self._batches.put(Work(job, reply, deadline_ns))
        try:
            return await future
        except asyncio.CancelledError:
            reply.abandoned = True
            raise

    def _scoring_stream(self, method: ScoringStream) -> Any:
        async def handle(requests: AsyncIterator[bytes], context: Context) -> None:
            try:
                self._state.require_accepting()
            except UnavailableError as error:
                await self._fail(context, method.name, error, self._now_ns())
            self._streams[context] = self._now_ns()
            try:
                # context.read and write instead of a generator: the speed is equal, and a drain that aborts the
                # context ends this read.
                while (raw := await context.read()) is not EOF:
                    arrived_ns = self._streams[context] = self._now_ns()
                    await context.write(await self._frame(method, raw, arrived_ns))
                    if self._end_after_frame:
                        await _abort(context, to_status(UnavailableError(DRAINING)))
            finally:
                del self._streams[context]

        return handle

    async def _frame(self, method: ScoringStream, raw: bytes, arrived_ns: int) -> bytes:
        await self._large_messages.turn(raw)
        frame = method.decode(raw)
        try:
            if isinstance(frame.input, VolcastError):
                raise frame.input
            response, code = frame.encode(await self._score(frame.input, arrived_ns)), "OK"
        except Exception as error:
            response, code = frame.fail(error), _CODES[self._status_of(error).code].name
        self._metrics.request(method.name, code, self._now_ns() - arrived_ns)
        return response

    def _one_request(self, method: StreamMethod) -> Any:
        async def handle(raw: bytes, context: Context) -> None:
            await self._run_stream(method, _SingleRequestContext(raw, context), context)

        return handle

    def _bidirectional(self, method: StreamMethod) -> Any:
        async def handle(requests: AsyncIterator[bytes], context: Context) -> None:
            await self._run_stream(method, _BidirectionalContext(context), context)

        return handle

    async def _run_stream(self, method: StreamMethod, stream: StreamContext, context: Context) -> None:
        arrived_ns = self._now_ns()
        self._unscored_streams.add(context)
        try:
            await method.run(stream)
        except AbortError:
            raise
        except Exception as error:  # grpc.aio would send the text of the error to the caller
            await self._fail(context, method.name, error, arrived_ns)
        finally:
            self._unscored_streams.discard(context)

    async def _end_streams(self, *, even_busy: bool) -> None:
        """Ends the streams with no frame in flight, so that their callers open another on another replica."""
        status = to_status(UnavailableError(DRAINING))
        now_ns = self._now_ns()
        paused = [context for context, frame_ns in self._streams.items() if now_ns - frame_ns > IDLE_NS]
        for context in [*paused, *(self._unscored_streams if even_busy else ())]:
            try:
                await _abort(context, status)
            except AbortError:
                continue

    async def _fail(self, context: Context, name: str, error: Exception, arrived_ns: int) -> NoReturn:
        status = self._status_of(error)
        self._metrics.request(name, _CODES[status.code].name, self._now_ns() - arrived_ns)
        await _abort(context, status)

    def _status_of(self, error: Exception) -> Any:
        if isinstance(error, FaultError) or not isinstance(error, VolcastError):
            self._log.error("request_failed", exc_info=error.__cause__ if isinstance(error, FaultError) else error)
        return to_status(error)


class _SingleRequestContext:
    """A StreamContext whose only request has already been read."""

    def __init__(self, raw: bytes, context: Context) -> None:
        self._raw: bytes | None = raw
        self.write = context.write

    async def read(self) -> bytes | None:
        raw, self._raw = self._raw, None
        return raw


class _BidirectionalContext:
    """A StreamContext of a grpc.aio call."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.write = context.write

    async def read(self) -> bytes | None:
        raw = await self._context.read()
        return None if raw is EOF else raw


async def _abort(context: Context, status: Any) -> NoReturn:
    """Ends the call with a rich status, by grpc.aio's AbortError."""
    await context.abort(_CODES[status.code], status.message, ((DETAILS_KEY, status.SerializeToString()),))
    raise AssertionError("unreachable: abort raises")
