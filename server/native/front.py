"""Sockets of the native front: what comes is answered at once, or waits for the next batch."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from common.errors import DeadlineError, UnavailableError, VolcastError
from common.rpc_status import to_status
from server.core.batcher import FaultError
from server.core.dataplane import DataPlane, Job, Outcome
from server.core.requests import Result
from server.http2.connection import Event, Limits
from server.http2.headers import NO_TIMEOUT, SHORT, STREAMING, UNARY, Head, failure
from server.http2.stream import RESOURCE_EXHAUSTED, Stream
from server.native.blocks import Blocks
from server.native.bursts import Lane
from server.native.calls import Dialogue, FrameStream, FrameWork, UnaryCall
from server.native.entries import Entry, new_entry
from server.native.link import LINGER_S, Link, SocketLimits
from server.rpc.inference import read_predict
from server.rpc.methods import Frame, Method, Methods, Scoring, ScoringStream, Unary
from server.rpc.methods import Stream as StreamMethod
from server.runtime.batch_loop import BatchLoop
from server.runtime.metrics import CODE_NAMES, ServerMetrics
from server.runtime.state import ServerState
from server.security.tokens import Gate
from server.wire.inline import AMPLE_NS, Lone
from server.wire.templates import Forms, Prefixes

SWEEP_S = 1.0
DRAIN_TICK_S = 0.02
# Four calls of one row: more than that within the time of a spin are not one caller waiting for each answer.
FEW_BYTES = 1024
# Calls this many spins apart are near enough to spin for: asleep, the same caller takes twice as long a turn.
NEAR = 4
# A stream that has sent nothing for so long has no frame in flight: a drain ends it at once.
IDLE_NS = 50_000_000
# How long a drain waits for such a moment before it ends a stream between two frames.
MAX_BUSY_STREAM_S = 1.0
DRAINING = "the server is draining"


class NativeFront:
    """Must be built on the running loop."""

    def __init__(
        self,
        methods: Methods,
        plane: DataPlane,
        batches: BatchLoop,
        state: ServerState,
        metrics: ServerMetrics,
        gate: Gate,
        log: Any,
        limits: Limits,
        sockets: SocketLimits,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.methods: Mapping[bytes, Method] = {path.encode(): method for path, method in methods.items()}
        self.limits = limits
        self.plane = plane
        self.now_ns = plane.now_ns
        self.batches = batches
        self.state = state
        self.metrics = metrics
        self.log = log
        self.links: set[Link] = set()
        self.dirty: dict[Link, None] = {}
        self._active: dict[FrameStream, None] = {}
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self.sockets = sockets
        self._tls = tls
        self._gate = gate
        self.spin(sockets.spin_us * 1000)
        self._spin_until_ns = 0
        self._arrived_ns = 0
        self._window_began_ns = self._window = self._window_before = 0
        self._spinning = False
        self._few = False
        self.forms = Forms()
        self.prefixes = Prefixes(plane.repository)
        self._lane = Lane(self, batches.max_batch_rows)
        self.lone = Lone(plane, batches, metrics)
        self._max_queue = batches.max_queue
        batches.feed = self._feed
        batches.after = self.flush_dirty
        overloaded = to_status(batches.overloaded)
        self._refusal = failure(RESOURCE_EXHAUSTED, overloaded.message, overloaded.SerializeToString(), started=False)
        self.blocks = Blocks(self, batches.max_batch_rows, self._refusal)

    def kind(self, method: Method) -> int:
        if isinstance(method, Scoring):
            return SHORT
        return UNARY if isinstance(method, Unary) else STREAMING

    def refusal(self, path: bytes, authorization: bytes) -> str:
        return self._gate.refusal(path, authorization)

    def forget_heads(self) -> None:
        """After a change of who may call what."""
        for link in self.links:
            link.connection.forget_heads()

    async def start(self, *addresses: tuple[str, int]) -> list[int]:
        """Listens at each; returns their ports, which are chosen freely where 0 was asked for."""
        for host, port in addresses:
            try:
                server = await self._loop.create_server(
                    lambda: Link(self), host, port, reuse_port=self.sockets.reuse_port, backlog=1024, **self._secured()
                )
            except OSError:
                raise UnavailableError(
                    f"cannot listen on {host}:{port}; choose another with --host and --port"
                ) from None
            self._servers.append(server)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        return [server.sockets[0].getsockname()[1] for server in self._servers[-len(addresses) :]]

    async def start_trial(self, host: str) -> int:
        """A port for the server's own first call, before any other is open."""
        return (await self.start((host, 0)))[0]

    async def end_trial(self) -> None:
        self._servers.pop().close()

    def _secured(self) -> dict[str, Any]:
        """A handshake that is not done in time ends; so does a goodbye that the peer does not answer."""
        limit_s = self.sockets.partial_s
        return {"ssl": self._tls, "ssl_handshake_timeout": limit_s, "ssl_shutdown_timeout": 1.0} if self._tls else {}

    async def drain(self, drain_s: float) -> None:
        """Ends every connection: no call begins, and calls in progress get `drain_s` seconds.

        A stream ends when it pauses, or after MAX_BUSY_STREAM_S between two frames; every call that is left
        ends with UNAVAILABLE. Takes up to LINGER_S longer where a peer does not close its side.
        """
        for server in self._servers:
            server.close()
        for link in list(self.links):
            link.connection.go_away()
            link.flush()
        began_s = self._loop.time()
        busy_s = min(MAX_BUSY_STREAM_S, drain_s / 2)
        while self.links and (passed_s := self._loop.time() - began_s) < drain_s:
            self._end_streams(even_busy=passed_s >= busy_s)
            await asyncio.sleep(DRAIN_TICK_S)
        lingers_until_s = self._loop.time() + LINGER_S
        while self.links and self._loop.time() < lingers_until_s:
            self._end_all_calls()
            await asyncio.sleep(DRAIN_TICK_S)
        for link in list(self.links):
            link.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def job_of(self, frame: Frame, now_ns: int) -> Job | VolcastError:
        if isinstance(frame.input, VolcastError):
            return frame.input
        try:
            return self.plane.prepare(frame.input, now_ns)
        except VolcastError as error:
            return error
        except Exception as error:
            return FaultError(error)

    def frame_answer(self, name: str, work: FrameWork, outcome: Outcome) -> bytes:
        duration_ns = self.now_ns() - work.arrived_ns
        if isinstance(outcome, Result):
            self.metrics.request(name, "OK", duration_ns)
            return work.frame.encode(outcome)
        self.metrics.request(name, CODE_NAMES[self.status_of(outcome).code], duration_ns)
        return work.frame.fail(outcome)

    def status_of(self, error: Exception) -> Any:
        if isinstance(error, FaultError):
            self.log.error("request_failed", exc_info=error.__cause__)
        return to_status(error)

    def activate(self, call: FrameStream) -> None:
        """A stream that may have frames to take."""
        self._active[call] = None
        self.batches.wake()

    def deactivate(self, call: FrameStream) -> None:
        self._active.pop(call, None)

    @property
    def full(self) -> bool:
        return self.room <= 0

    @property
    def room(self) -> int:
        """Calls that the queue still takes."""
        return self._max_queue - len(self._lane) - self.batches.batcher.waiting - self.blocks.waiting

    @property
    def _nothing_waits(self) -> bool:
        """Whether what has just come may be answered on the spot: no batch is to be made, and nothing waits."""
        return (
            self._few
            and not self._lane
            and not self.batches.waits
            and not self.blocks.waiting
            and self.state.accepting
            and self._max_queue > 0
        )

    def _answered(self, link: Link, stream_id: int, head: Head, raw: bytes, now_ns: int) -> bool:
        """Answers a call on the spot; False, and nothing is done, where it must go another way."""
        form = self.forms.of(raw) if head.method.packed else None
        if form is None or (head.timeout_ns != NO_TIMEOUT and head.timeout_ns < AMPLE_NS):
            return False
        answer = self.lone.answer(form, raw, len(form.prefix), now_ns)
        if answer is None:
            return False
        link.connection.respond_short(stream_id, answer)
        link.flush()
        self.lone.tell("Predict", now_ns)
        return True

    def take_calls(self, link: Link, now_ns: int) -> None:
        """Calls that came the short way."""
        connection = link.connection
        calls, connection.calls = connection.calls, []
        if len(calls) == 1 and self._nothing_waits and self._answered(link, *calls[0], now_ns):
            return
        lane, forms = self._lane, self.forms
        room = self.room
        accepting = self.state.accepting
        refused: list[int] = []
        names: dict[str, int] = {}
        for stream_id, head, raw in calls:
            if room <= 0:
                refused.append(stream_id)
                name = head.method.name
                names[name] = names.get(name, 0) + 1
                continue
            form = forms.of(raw) if head.method.packed else None
            if form is not None and accepting:
                room -= 1
                lane.put(new_entry((form, raw, 0, now_ns, link, stream_id, head, None, 0)))
            elif (stream := connection.stream(stream_id)) is not None:
                room -= 1
                self._request(link, stream, raw)
        if refused:
            connection.fail_short(refused, self._refusal)
            self.metrics.refused(names)
        if lane:
            self.batches.wake(len(lane))

    def ordinary(self, entry: Entry) -> None:
        """A recognized request that must be looked at like any other after all."""
        if entry.frames is not None:
            entry.frames.put_again(entry.raw, entry.arrived_ns)
        else:
            self.ordinary_call(entry.link, entry.stream_id, entry.raw, entry.arrived_ns)

    def ordinary_call(self, link: Link, stream_id: int, raw: bytes, arrived_ns: int) -> None:
        """The same for a unary call, which has had its place in the queue."""
        stream = link.connection.stream(stream_id)
        if stream is not None:
            stream.arrived_ns = arrived_ns
            self._request(link, stream, raw, waited=True)

    def late(self, link: Link, stream_id: int, error: VolcastError, arrived_ns: int) -> None:
        stream = link.connection.stream(stream_id)
        if stream is not None:
            stream.arrived_ns = arrived_ns
            link.fail(stream, stream.head.method.name, error)

    def put_entries(self, entries: list[Entry]) -> None:
        self._lane.extend(entries)

    def take(self, link: Link) -> None:
        """The events of one connection."""
        connection = link.connection
        events, connection.events = connection.events, []
        for kind, stream, message in events:
            if kind == Event.REQUEST:
                self._request(link, stream, message)
            elif kind == Event.OPENED:
                self._opened(link, stream)
            elif stream.app is None:
                continue
            elif kind == Event.RESET:
                stream.app.cancel()
            elif isinstance(stream.app, FrameStream):
                if len(events) > 1 or not self._nothing_waits or not stream.app.answer_alone():
                    self.activate(stream.app)
            elif isinstance(stream.app, Dialogue):
                stream.app.woken()

    def _request(self, link: Link, stream: Stream, message: bytes, *, waited: bool = False) -> None:
        if stream.closed:
            return
        method = stream.head.method
        if isinstance(method, Unary):
            try:
                answer = method.answer(message)
            except VolcastError as error:
                link.fail(stream, method.name, error)
            except Exception as error:
                link.fail(stream, method.name, FaultError(error))
            else:
                link.respond(stream, method.name, answer)
            return
        if self.full and not waited:
            link.connection.fail_fast(stream, self._refusal)
            self.metrics.request(method.name, "RESOURCE_EXHAUSTED", 0)
            self.dirty[link] = None
            return
        form = self.forms.of(message) if method.packed and not waited and self.state.accepting else None
        if form is not None:
            self._lane.put(new_entry((form, message, 0, stream.arrived_ns, link, stream.id, stream.head, None, 0)))
            self.batches.wake(len(self._lane))
            return
        try:
            self.state.require_accepting()
            request, encode = method.decode(message)
            job = self.plane.prepare(request, stream.arrived_ns)
            if method.packed:
                self.forms.learn(message, request, read_predict)
        except VolcastError as error:
            link.fail(stream, method.name, error)
        except Exception as error:
            link.fail(stream, method.name, FaultError(error))
        else:
            stream.app = UnaryCall(link, stream, method.name, job, encode, stream.deadline_ns)
            self.batches.put(stream.app)

    def _opened(self, link: Link, stream: Stream) -> None:
        method = stream.head.method
        if isinstance(method, ScoringStream):
            try:
                self.state.require_accepting()
            except UnavailableError as error:
                link.fail(stream, method.name, error)
            else:
                stream.app = FrameStream(link, stream, method)
                self.activate(stream.app)
        else:
            dialogue = stream.app = Dialogue(link, stream)
            dialogue.task = self._loop.create_task(self._converse(dialogue, method))

    async def _converse(self, dialogue: Dialogue, method: StreamMethod) -> None:
        link, stream = dialogue.link, dialogue.stream
        try:
            deadline_ns = stream.deadline_ns
            timeout_s = None if deadline_ns is None else max(0, deadline_ns - self.now_ns()) * 1e-9
            async with asyncio.timeout(timeout_s):
                await method.run(dialogue)
            link.connection.finish(stream)
        except TimeoutError:
            link.fail(stream, method.name, DeadlineError("the deadline of the stream has passed"))
        except VolcastError as error:
            link.fail(stream, method.name, error)
        except Exception as error:
            link.fail(stream, method.name, FaultError(error))
        link.flush()

    def _feed(self) -> bool:
        more = False
        for call in list(self._active):
            try:
                again = call.pull()
            except Exception as error:  # a fault of ours in one stream is no other's
                call.fail(FaultError(error))
                again = False
            if again:
                more = True
            else:
                self._active.pop(call, None)
        return self._lane.feed() or more

    def flush_dirty(self) -> None:
        dirty, self.dirty = self.dirty, {}
        for link in dirty:
            link.flush()

    # A bounded spin: while calls are arriving, the loop looks at its sockets without going to sleep.

    def spin(self, spin_ns: int) -> None:
        """For how long from now on; 0: not at all."""
        self._spin_ns = spin_ns

    @property
    def spinning(self) -> bool:
        return self._spinning

    def arrived(self, size: int, now_ns: int) -> None:
        """Bytes have come. Spins where calls come one by one: the last two near each other, and few at a time.

        Where many are under way, sleeping costs nothing: what gathers meanwhile makes the next batch. Spun on,
        32 calls in flight were answered in small batches, half as many a second.
        """
        spin_ns = self._spin_ns
        gap_ns, self._arrived_ns = now_ns - self._arrived_ns, now_ns
        if now_ns - self._window_began_ns > spin_ns:
            self._window_before, self._window, self._window_began_ns = self._window, 0, now_ns
        self._window += size
        self._few = self._window <= FEW_BYTES and self._window_before <= FEW_BYTES
        if self._few and gap_ns < NEAR * spin_ns:
            self._spin_until_ns = now_ns + spin_ns
            if not self._spinning:
                self._spinning = True
                self._loop.call_soon(self._spin)
        else:
            self._spin_until_ns = 0

    def _spin(self) -> None:
        if self.now_ns() < self._spin_until_ns:
            self._loop.call_soon(self._spin)
        else:
            self._spinning = False

    def _end_streams(self, *, even_busy: bool) -> None:
        """Ends streams so that their callers open another, on another replica; closes connections without calls."""
        now_ns = self.now_ns()
        for link in list(self.links):
            for stream in list(link.connection.streams.values()):
                call = stream.app
                if isinstance(call, FrameStream):
                    if even_busy or (call.idle and now_ns - call.heard_ns > IDLE_NS):
                        call.end_after_frame(UnavailableError(DRAINING))
                elif even_busy and isinstance(call, Dialogue):
                    self._end_call(link, stream)
            link.flush()
            if link.connection.closing and not link.connection.open_calls:
                link.finish()

    def _end_all_calls(self) -> None:
        """The drain is over: a status for every call that is still open."""
        for link in list(self.links):
            for stream in link.connection.open_streams():
                self._end_call(link, stream)
            link.flush()
            link.finish()

    def _end_call(self, link: Link, stream: Stream) -> None:
        call, method = stream.app, stream.head.method
        if method is not None and stream.trailers is None:
            link.fail(stream, method.name, UnavailableError(DRAINING))
        if call is not None:
            call.cancel()

    def _sweep(self) -> None:
        now_ns = self.now_ns()
        for link in list(self.links):
            link.sweep(now_ns)
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
