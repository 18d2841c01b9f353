"""Sockets of the native front: what comes is answered at once, or waits for the next batch."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import DeadlineError, UnavailableError, VolcastError
from common.rpc_status import to_status
from server.batching import BatchLoop
from server.core.batcher import INLINE_ROWS, FaultError
from server.core.dataplane import DataPlane, Job, Outcome
from server.core.requests import Result
from server.grpc.forms import Forms, model_for
from server.grpc.inference import read_predict
from server.grpc.methods import Frame, Method, Methods, Scoring, ScoringStream, Unary
from server.grpc.methods import Stream as StreamMethod
from server.http2.blocks import Bytes
from server.http2.connection import Connection, Event, Limits
from server.http2.frames import ErrorCode, ProtocolError
from server.http2.headers import SHORT, STREAMING, UNARY, Head, failure
from server.http2.stream import RESOURCE_EXHAUSTED, Stream
from server.metrics import CODE_NAMES, ServerMetrics
from server.native.blocks import CallBlock, matrix_of
from server.native.bursts import Lane
from server.native.calls import Dialogue, FrameStream, FrameWork, UnaryCall
from server.native.entries import Entry, new_entry
from server.security.tokens import Gate
from server.state import ServerState

SWEEP_S = 1.0
DRAIN_TICK_S = 0.02
# Four calls of one row: more than that within the time of a spin are not one caller waiting for each answer.
FEW_BYTES = 1024
# Calls this many spins apart are near enough to spin for: asleep, the same caller takes twice as long a turn.
NEAR = 4
# A stream that has sent nothing for so long has no frame on its way, and can be ended by a drain.
IDLE_NS = 50_000_000
WRITE_HIGH = 1024 * 1024  # bytes the kernel has not taken before a connection is read no more


@dataclass(frozen=True)
class SocketLimits:
    """partial_s: how long a preface or a frame that has begun may take to its end (slow loris).

    spin_us: how long the loop looks for the next call before it sleeps, while calls are arriving.
    """

    spin_us: int = 250
    max_connections: int = 16_384
    partial_s: float = 10.0
    keepalive_s: float = 60.0
    keepalive_timeout_s: float = 20.0
    reuse_port: bool = False


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
        self.forms = Forms()
        self._lane = Lane(self, batches.max_batch_rows)
        self._most_in_block = min(INLINE_ROWS, batches.max_batch_rows)
        self._max_queue = batches.max_queue
        self.in_blocks = 0  # calls that wait in blocks
        batches.feed = self._feed
        batches.after = self.flush_dirty
        overloaded = to_status(batches.overloaded)
        self._refusal = failure(RESOURCE_EXHAUSTED, overloaded.message, overloaded.SerializeToString(), started=False)

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
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        return [server.sockets[0].getsockname()[1] for server in self._servers]

    def _secured(self) -> dict[str, Any]:
        """A handshake that is not done in time ends; so does a goodbye that the peer does not answer."""
        limit_s = self.sockets.partial_s
        return {"ssl": self._tls, "ssl_handshake_timeout": limit_s, "ssl_shutdown_timeout": 1.0} if self._tls else {}

    async def drain(self, drain_s: float) -> None:
        """No connection and no call begins any more; those in hand get `drain_s` seconds."""
        for server in self._servers:
            server.close()
        for link in list(self.links):
            link.connection.go_away()
            link.flush()
        until = self._loop.time() + drain_s
        while self.links and self._loop.time() < until:
            self._end_idle()
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
        return self._room() <= 0

    def _room(self) -> int:
        """Calls that the queue still takes."""
        return self._max_queue - len(self._lane) - self.batches.batcher.waiting - self.in_blocks

    @property
    def busy(self) -> bool:
        """Whether anything waits for the model."""
        return bool(self._lane) or self.batches.batcher.waiting > 0 or bool(self._active)

    def take_calls(self, link: Link, now_ns: int) -> None:
        """Calls that came the short way."""
        connection = link.connection
        calls, connection.calls = connection.calls, []
        lane, forms = self._lane, self.forms
        room = self._room()
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

    def take_blocks(self, link: Link, now_ns: int) -> None:
        """Calls that came alike: as many as there is room for, the others are refused."""
        connection = link.connection
        waiting, connection.blocks = connection.blocks, []
        for block in waiting:
            room = max(0, self._room())
            ids, messages = block.ids, block.messages
            if room < len(ids):
                connection.fail_block(ids[room:], self._refusal)
                self.metrics.refused({block.head.method.name: len(ids) - room})
                ids, messages = ids[:room], messages[:room]
            for begin in range(0, len(ids), self._most_in_block):
                until = begin + self._most_in_block
                self._take_block(link, ids[begin:until], messages[begin:until], block.head, now_ns)
        self.dirty[link] = None

    def _take_block(self, link: Link, ids: range, messages: Bytes, head: Head, now_ns: int) -> None:
        first = messages[0].tobytes()
        form = self.forms.of(first) if head.method.packed and self.state.accepting else None
        model = model_for(self.plane.repository, form) if form is not None else None
        if form is None or model is None or form.rows * len(ids) > INLINE_ROWS:
            self.alone(link, ids, messages)
            return
        prefix = np.frombuffer(form.prefix, np.uint8)
        alike = (messages[:, : len(prefix)] == prefix).all(axis=1)
        matrix = matrix_of(messages, form, len(prefix), len(model.schema)) if alike.all() else None
        if matrix is None:
            self.alone(link, ids, messages)
            return
        self.in_blocks += len(ids)
        self.batches.put(CallBlock(self, link, ids, messages, form, Job(model, matrix, now_ns), head.timeout_ns))

    def alone(self, link: Link, ids: Iterable[int], messages: Bytes) -> None:
        """Calls of a block that must be looked at one by one."""
        for stream_id, one in zip(ids, messages, strict=True):
            stream = link.connection.stream(stream_id)
            if stream is not None:
                self._request(link, stream, one.tobytes(), waited=True)

    def ordinary(self, entry: Entry) -> None:
        """A recognized request that must be looked at like any other after all."""
        if entry.frames is not None:
            entry.frames.put_again(entry.raw, entry.arrived_ns)
        elif (stream := entry.link.connection.stream(entry.stream_id)) is not None:
            self._request(entry.link, stream, entry.raw, waited=True)

    def late(self, link: Link, stream_id: int, error: VolcastError) -> None:
        stream = link.connection.stream(stream_id)
        if stream is not None:
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
        if gap_ns < NEAR * spin_ns and self._window <= FEW_BYTES and self._window_before <= FEW_BYTES:
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

    def _end_idle(self) -> None:
        """Ends the streams with no frame on its way; their callers open another, on another replica."""
        now_ns = self.now_ns()
        for link in list(self.links):
            for stream in list(link.connection.streams.values()):
                call = stream.app
                if isinstance(call, FrameStream) and call.idle and now_ns - call.heard_ns > IDLE_NS:
                    call.fail(UnavailableError("the server is draining"))
            link.flush()
            if link.connection.closing and not link.connection.open_calls:
                link.close()

    def _sweep(self) -> None:
        now_ns = self.now_ns()
        for link in list(self.links):
            link.sweep(now_ns)
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)


class Link(asyncio.Protocol):
    """One connection's socket."""

    def __init__(self, front: NativeFront) -> None:
        self.front = front
        self.connection = Connection(front.methods, front, front.limits)
        self.paused = False  # the kernel takes no more: nothing is read until it does
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            _keep_alive(sock, self.front.sockets)
        if len(self.front.links) >= self.front.sockets.max_connections:
            self._transport.abort()
            return
        self.connection.partial_since_ns = self.front.now_ns()
        self.front.links.add(self)
        if self.front.state.draining:
            self.connection.go_away()
        self.flush()

    def data_received(self, data: bytes) -> None:
        front, connection = self.front, self.connection
        now_ns = front.now_ns()
        try:
            connection.receive(data, now_ns)
        except ProtocolError as fault:
            front.take(self)
            self._break(fault)
            return
        if connection.blocks:
            front.take_blocks(self, now_ns)
        if connection.calls:
            front.take_calls(self, now_ns)
        if connection.events:
            front.take(self)
        front.arrived(len(data), now_ns)
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.front.links.discard(self)
        for stream in self.connection.abandon():
            if stream.app is not None:
                stream.app.cancel()

    def pause_writing(self) -> None:
        self.paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.paused = False
        self._transport.resume_reading()
        for stream in self.connection.streams.values():
            if isinstance(stream.app, FrameStream):
                self.front.activate(stream.app)
            elif isinstance(stream.app, Dialogue):
                stream.app.woken()

    def respond(self, stream: Stream, name: str, message: bytes) -> None:
        self.connection.respond(stream, message)
        self.front.metrics.request(name, "OK", self.front.now_ns() - stream.arrived_ns)
        self.front.dirty[self] = None

    def send(self, stream: Stream, messages: bytes) -> None:
        """Messages of a stream, each with its prefix."""
        self.connection.send(stream, messages)
        self.front.dirty[self] = None

    def fail(self, stream: Stream, name: str, error: Exception) -> None:
        status = self.front.status_of(error)
        self.connection.finish(stream, status.code, status.message, status.SerializeToString())
        self.front.metrics.request(name, CODE_NAMES[status.code], self.front.now_ns() - stream.arrived_ns)
        self.front.dirty[self] = None

    def end(self, stream: Stream) -> None:
        self.connection.finish(stream)
        self.front.dirty[self] = None

    def flush(self) -> None:
        if self._transport is not None and (data := self.connection.output()):
            self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def sweep(self, now_ns: int) -> None:
        self.connection.forgive()
        since_ns = self.connection.partial_since_ns
        if since_ns is not None and now_ns - since_ns > self.front.sockets.partial_s * 1e9:
            self._break(ProtocolError(ErrorCode.SETTINGS_TIMEOUT, "nothing whole came in time"))

    def _break(self, fault: ProtocolError) -> None:
        self.connection.go_away(fault.code, fault.reason)
        self.flush()
        self._transport.close()


def _keep_alive(sock: socket.socket, limits: SocketLimits) -> None:
    """TCP's own probes find a peer that has gone without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(limits.keepalive_s)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(limits.keepalive_timeout_s * 1000)))
