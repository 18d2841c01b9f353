"""What a call costs the native front without its socket: CPU time of one thread, steady beside other load.

python -m benchmarks.calls [--profile] [CASE...]

Bytes as h2load writes them go into a link, in pieces as the kernel hands them over; what comes out is counted.
The cases named grpc are of bytes as gRPC C++ writes them: four frames a call, and another row in every call.
It shows where the time of a call goes and no more: a rate is for `volcast bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns, process_time_ns, thread_time, time
from typing import NamedTuple

import numpy as np
import structlog
import uvloop

from benchmarks.requests import ROW, request
from common.http2 import frames
from server.app import services
from server.core.dataplane import DataPlane
from server.core.models import Repository
from server.core.shadow import ShadowScorer
from server.http2.connection import Limits
from server.native.connection import ServerConnection, SocketLimits
from server.native.front import NativeFront
from server.rpc.dependencies import FrontDependencies
from server.runtime.batch_loop import BatchLoop
from server.runtime.heap import keep_freed_memory
from server.runtime.metrics import ServerMetrics
from server.runtime.reload import Reloader
from server.runtime.state import ServerState
from server.security.tokens import Gate
from volcast.v1 import StreamPredictRequest

SERVICE = b"/volcast.v1.InferenceService/"
READ_BYTES = 200_000  # uvloop's buffer holds 256,000
ROUNDS = 40


class Case(NamedTuple):
    """grpc: the frames of gRPC's clients. forms: rows of one call after another, in turn; grpc only.

    connections: that many reads, of `in_flight` calls each, in one turn of the loop.
    """

    rows: int
    in_flight: int
    streaming: bool
    turns: int  # of `in_flight` calls, in one round
    grpc: bool = False
    forms: tuple[int, ...] = ()
    metadata: bool = False  # event times and product ids, which no model reads
    connections: int = 1


CASES = {
    "one": Case(1, 1, False, 300),
    "unary": Case(1, 32, False, 30),
    "unary-many": Case(1, 500, False, 4),
    "unary-256": Case(256, 16, False, 6),
    "ping-pong": Case(1, 1, True, 300),
    "stream": Case(1, 64, True, 20),
    "stream-256": Case(256, 16, True, 6),
    "grpc-8": Case(1, 8, False, 120, grpc=True),
    "grpc-32": Case(1, 32, False, 30, grpc=True),
    "grpc-4x16": Case(1, 16, False, 15, grpc=True, connections=4),
    "grpc-forms": Case(1, 32, False, 30, grpc=True, forms=(1, 2, 3, 5)),
    "grpc-256": Case(256, 8, False, 12, grpc=True),
    "grpc-metadata": Case(1, 32, False, 30, grpc=True, metadata=True),
}
PRODUCTS = ("BTC-USD", "ETH-USD", "DOGE-USD")
FIRST_EVENT_NS = 1_700_000_000_000_000_000
ROW_BYTES = 16  # of an answer: the probability and, of a forecast, the median


class Sink:
    """A transport that takes everything."""

    def __init__(self) -> None:
        self.written = 0

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> None: ...

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        raise RuntimeError("the front gave the link up")

    close = abort


def _front(models: Path) -> NativeFront:
    repository, state = Repository("volatility", time), ServerState("bench", "native", accepting=True)
    log = structlog.wrap_logger(structlog.testing.CapturingLogger(), processors=[])
    Reloader(repository, models, 0, log).load()
    table, _ = services.methods(repository, state, with_reflection=False)
    plane = DataPlane(repository, 65_536, perf_counter_ns)
    metrics = ServerMetrics(repository, state, ShadowScorer(repository))
    needs = FrontDependencies(table, plane, BatchLoop(plane, 1024, 512, 0), state, metrics, Gate(None), log)
    return NativeFront(needs, Limits(), SocketLimits(spin_us=0))


def _head(stream: int, method: bytes) -> bytes:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", SERVICE + method), (b":authority", b"localhost")]
    fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    # Literals without indexing (RFC 7541, section 6.2.2).
    block = b"".join([b"\x00%c%b%c%b" % (len(name), name, len(value), value) for name, value in fields])
    return frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block)


def _grpc_heads() -> Iterator[bytes]:
    """Blocks of gRPC C++: the first fills the table (RFC 7541, 6.2.1), later ones are nine indices (6.1)."""
    fields = [(b":path", SERVICE + b"Predict"), (b":authority", b"127.0.0.1:50051"), (b"te", b"trailers")]
    fields += [(b"content-type", b"application/grpc"), (b"user-agent", b"grpc-c++/1.51.1")]
    fields += [(b"grpc-accept-encoding", b"identity, deflate, gzip"), (b"accept-encoding", b"identity")]
    yield b"\x83\x86" + b"".join([b"\x40%c%b%c%b" % (len(name), name, len(value), value) for name, value in fields])
    indexed = b"\x83\x86" + bytes(0x80 | 61 + len(fields) - number for number in range(len(fields)))
    while True:
        yield indexed


def _varied(rows: int, number: int, case: Case) -> bytes:
    """A request whose values no other call has."""
    message = request(rows)
    random = np.random.default_rng(number)
    values = np.frombuffer(message.packed.values) * random.normal(1, 0.05, rows * len(ROW))
    message.packed.values = values.tobytes()
    if case.metadata:
        message.packed.event_times_ns.extend(FIRST_EVENT_NS + number * 1_000_003 + row for row in range(rows))
        message.packed.product_ids.extend(PRODUCTS[(number + row) % len(PRODUCTS)] for row in range(rows))
    return message.SerializeToString()


def _grpc_bursts(case: Case) -> Iterator[bytes]:
    forms = case.forms or (case.rows,)
    # What a call brings beside its stream: made once, as many as one round has.
    messages = [_varied(forms[number % len(forms)], number, case) for number in range(case.in_flight * case.turns)]
    heads, stream = _grpc_heads(), 1
    while True:
        for begin in range(0, len(messages), case.in_flight):
            burst = b""
            for message in messages[begin : begin + case.in_flight]:
                burst += frames.frame(frames.HEADERS, frames.END_HEADERS, stream, next(heads))
                burst += frames.window_update(stream, 5) + _data(stream, message, last=True, size=len(message) + 5)
                burst += frames.window_update(0, 64 + ROW_BYTES * max(forms))
                stream += 2
            yield burst


def _data(stream: int, message: bytes, *, last: bool, size: int = frames.FRAME_SIZE) -> bytes:
    """In frames of up to `size` bytes."""
    body = frames.MESSAGE.pack(0, len(message)) + message
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    flags = [0] * (len(pieces) - 1) + [frames.END_STREAM if last else 0]
    return b"".join([frames.frame(frames.DATA, flag, stream, one) for flag, one in zip(flags, pieces, strict=True)])


def _bursts(case: Case) -> Iterator[bytes]:
    """The bytes of `in_flight` calls at a time, with the room that a client gives for the answers."""
    given = case.in_flight * (64 + ROW_BYTES * case.rows)
    room = frames.window_update(0, given)
    if case.streaming:
        sent = [StreamPredictRequest(frame_id=1000 + one, request=request(case.rows)) for one in range(case.in_flight)]
        burst = room + frames.window_update(1, given)
        burst += b"".join([_data(1, one.SerializeToString(), last=False) for one in sent])
        while True:
            yield burst
    message, stream = request(case.rows).SerializeToString(), 1
    while True:
        burst = room
        for _ in range(case.in_flight):
            burst += _head(stream, b"Predict") + _data(stream, message, last=True)
            stream += 2
        yield burst


def _connected(front: NativeFront, sink: Sink, case: Case) -> ServerConnection:
    link = front.connect()
    link.connection_made(sink)  # type: ignore[arg-type]
    link.data_received(frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**20}))
    if case.streaming:
        link.data_received(_head(1, b"StreamPredict"))
    return link


async def measure(case: Case, models: Path, rounds: int, profile: bool) -> list[float]:
    """Microseconds of CPU a call, a figure a round."""
    front, sink = _front(models), Sink()
    links = [_connected(front, sink, case) for _ in range(case.connections)]
    bursts = [_grpc_bursts(case) if case.grpc else _bursts(case) for _ in links]
    calls = case.turns * case.in_flight * case.connections

    # With one call in flight, a generator over connections would cost a tenth of the call.
    unanswered = _unanswered(links[0], case) if len(links) == 1 else _any_unanswered(links, case)

    async def round_us() -> float:
        turns = [_reads(links, [next(burst) for burst in bursts]) for _ in range(case.turns)]
        began, before = process_time_ns(), sink.written
        for reads in turns:
            for read in reads:
                for link, data in read:
                    link.data_received(data)
                await asyncio.sleep(0)
            while unanswered():  # noqa: ASYNC110 - it is the loop's turns that count
                await asyncio.sleep(0)
        taken = process_time_ns() - began
        if sink.written - before < calls * 8 * case.rows:
            raise RuntimeError("not every call was answered")
        return taken / calls / 1000

    taken = [await round_us() for _ in range(rounds)]
    if profile:
        with _profiled():
            for _ in range(20):
                await round_us()
    return taken


def _reads(links: list[ServerConnection], bursts: list[bytes]) -> list[list[tuple[ServerConnection, bytes]]]:
    """The reads of each turn of the loop: a piece of each connection's burst."""
    begins = range(0, max(map(len, bursts)), READ_BYTES)
    return [[(link, burst[at : at + READ_BYTES]) for link, burst in zip(links, bursts, strict=True)] for at in begins]


def _unanswered(link: ServerConnection, case: Case) -> Callable[[], bool]:
    """Tells whether a call, or a frame of the one stream, has no answer yet."""
    if case.streaming:
        call = link.h2.streams[1].call
        return lambda: not call.idle
    return lambda: link.h2.open_calls > 0


def _any_unanswered(links: list[ServerConnection], case: Case) -> Callable[[], bool]:
    each = [_unanswered(link, case) for link in links]
    return lambda: any(unanswered() for unanswered in each)


@contextmanager
def _profiled() -> Iterator[None]:
    with cProfile.Profile(thread_time) as profile:  # of CPU, as all else here
        yield
    pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    if unknown := set(given.cases) - set(CASES):
        parser.error(f"unknown case {', '.join(sorted(unknown))}: expected {', '.join(CASES)}")
    keep_freed_memory()  # as `volcast serve` does
    for name in given.cases or CASES:
        rounds = uvloop.run(measure(CASES[name], given.models, given.rounds, given.profile))
        print(f"{name:<12} {min(rounds):6.2f} us of CPU a call at best, {statistics.median(rounds):6.2f} in the middle")


if __name__ == "__main__":
    main()
