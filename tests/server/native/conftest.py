"""The native front with a client in memory: everything but the socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from time import perf_counter_ns, time
from typing import cast

import pytest
import structlog

from server.app import services
from server.core.dataplane import DataPlane
from server.core.models import Repository
from server.core.shadow import ShadowScorer
from server.http2 import frames
from server.http2.connection import Limits
from server.native.connection import SocketLimits
from server.native.front import NativeFront
from server.rpc.dependencies import FrontDependencies
from server.runtime.batch_loop import BatchLoop
from server.runtime.metrics import ServerMetrics
from server.runtime.reload import Reloader
from server.runtime.state import ServerState
from server.security.tokens import Gate
from tests.server.bundles import write_bundle
from tests.server.http2.peer import Frame, block, frames_in, message

SERVICE = b"/volcast.v1.InferenceService/"


class Clock:
    def __init__(self) -> None:
        self.ahead_ns = 0

    def __call__(self) -> int:
        return perf_counter_ns() + self.ahead_ns


class Transport:
    """What a link writes to."""

    def __init__(self) -> None:
        self.written = b""
        self.reading = True
        self.closed = False

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> None: ...

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close


class Client:
    def __init__(self, front: NativeFront) -> None:
        self.transport = Transport()
        self.link = front.connect()
        self.link.connection_made(cast(asyncio.Transport, self.transport))
        self.send(frames.PREFACE + frames.settings({}) + frames.window_update(0, 2**30))
        self.read()

    def send(self, *parts: bytes) -> None:
        self.link.data_received(b"".join(parts))

    def head(self, stream: int, method: bytes, *extra: tuple[bytes, bytes], path: bytes = b"") -> None:
        self.send(frames.frame(frames.HEADERS, 4, stream, block(path or SERVICE + method, *extra)))

    def data(self, stream: int, body: bytes, flags: int = 0) -> None:
        self.send(frames.frame(frames.DATA, flags, stream, body))

    def call(self, stream: int, raw: bytes, method: bytes = b"Predict") -> None:
        self.head(stream, method)
        self.data(stream, message(raw), frames.END_STREAM)

    def read(self) -> list[Frame]:
        data, self.transport.written = self.transport.written, b""
        return frames_in(data)

    async def until(self, done: Callable[[list[Frame]], object]) -> list[Frame]:
        """Turns of the loop until what has come is enough."""
        got: list[Frame] = []
        async with asyncio.timeout(10):
            while not done(got := got + self.read()):  # noqa: ASYNC110 - it is the loop's turns that count
                await asyncio.sleep(0)
        return got

    async def ended(self, stream: int) -> list[Frame]:
        return await self.until(lambda got: any(sent.stream == stream and sent.flags & 1 for sent in got))


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    folder = tmp_path_factory.mktemp("native-models")
    write_bundle(folder)
    repository = Repository("volatility", time)
    log = structlog.wrap_logger(structlog.testing.CapturingLogger(), processors=[])
    Reloader(repository, folder, 0, log).load()
    return repository


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def front(repository: Repository, clock: Clock) -> NativeFront:
    state = ServerState("test", "native")
    plane = DataPlane(repository, 65_536, clock)
    metrics = ServerMetrics(repository, state, ShadowScorer(repository))
    batches = BatchLoop(plane, 1024, 512, 0, metrics.ran)
    table, _ = services.methods(repository, state, with_reflection=True)
    log = structlog.wrap_logger(structlog.testing.CapturingLogger(), processors=[])
    state.accepting = True
    needs = FrontDependencies(table, plane, batches, state, metrics, Gate(None), log)
    return NativeFront(needs, Limits(), SocketLimits(spin_us=0))


@pytest.fixture
def client(front: NativeFront) -> Iterator[Client]:
    made = Client(front)
    yield made
    if made.link in front.connections:
        made.link.connection_lost(None)
