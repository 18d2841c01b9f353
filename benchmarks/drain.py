"""Rolling restarts of two servers behind Envoy and behind HAProxy, under load: no call may fail.

python -m benchmarks.drain --restarts 6 [--balancer envoy] [--front native|grpcio] [--out FILE]

Unary callers do not retry. Streams send a frame every 5 ms; each may end with the server's own UNAVAILABLE
after its last answered frame, and with nothing else. Its caller then opens the next one.
"""

from __future__ import annotations

import json
import shlex
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import click
import grpc
from rich.console import Console

from benchmarks.balancers import Backend, balancer, program
from benchmarks.machine import header, machine
from benchmarks.processes import free_port
from benchmarks.rolling import PREDICT, SHIPPED, STREAM, TIMEOUT_S, await_calls, replica, request
from benchmarks.sections import row_as_builtins
from benchmarks.targets import Row, at_most
from volcast.v1 import PredictResponse, StreamPredictRequest, StreamPredictResponse

UNARY_CALLERS, STREAM_CALLERS = 4, 4
FRAME_EVERY_S = 0.005
LAME_DUCK_S = 1.0  # the default
DRAINING = "the server is draining"
RESULT = Path(__file__).parent / "results" / "drain.json"


@dataclass
class Counts:
    calls: int = 0
    failed_calls: int = 0
    streams: int = 0
    ended_unavailable: int = 0
    without_status: int = 0  # ended with anything but the server's status
    wrong_answers: int = 0
    frames: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        return not (self.failed_calls or self.without_status or self.wrong_answers)

    def figures(self) -> dict[str, Any]:
        return {**self.__dict__, "failures": dict(self.failures.most_common(5))}


class Load:
    """Callers through the balancer until it is left."""

    def __init__(self, address: str, expected: float) -> None:
        self._address = address
        self._expected = expected
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.counts = Counts()
        work = [self._call] * UNARY_CALLERS + [self._converse] * STREAM_CALLERS
        self._threads = [threading.Thread(target=self._repeat, args=(target,)) for target in work]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, work: Any) -> None:
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self._address, options=options) as channel:
            while not self._stop.is_set():
                work(channel)

    def _call(self, channel: grpc.Channel) -> None:
        predict: Any = channel.unary_unary(PREDICT)
        try:
            answer = PredictResponse.FromString(predict(request().SerializeToString(), timeout=TIMEOUT_S))
        except grpc.RpcError as error:
            self._count("failed_calls", error)
            return
        self._count("calls")
        self._require(answer)

    def _converse(self, channel: grpc.Channel) -> None:
        def frames() -> Iterator[bytes]:
            number = 0
            while not self._stop.wait(FRAME_EVERY_S):
                number += 1
                yield StreamPredictRequest(frame_id=number, request=request()).SerializeToString()

        converse: Any = channel.stream_stream(STREAM)
        self._count("streams")
        answered = 0
        try:
            for raw in converse(frames()):
                answer = StreamPredictResponse.FromString(raw)
                answered += 1
                if answer.frame_id != answered:
                    self._count("wrong_answers")
                self._count("frames")
                self._require(answer.response)
        except grpc.RpcError as error:
            status: Any = error
            if status.code() is grpc.StatusCode.UNAVAILABLE and status.details() == DRAINING:
                self._count("ended_unavailable")
            else:
                self._count("without_status", error)

    def _require(self, answer: PredictResponse) -> None:
        if list(answer.probabilities) != [self._expected]:
            self._count("wrong_answers")

    def _count(self, name: str, error: Any = None) -> None:
        with self._lock:
            setattr(self.counts, name, getattr(self.counts, name) + 1)
            if error is not None:
                self.counts.failures[f"{name}: {error.code().name} {error.details()}"[:300]] += 1


def rolling_restarts(name: str, count: int, front: str) -> Counts:
    """Each of two servers in turn; the next one once the restarted one answers calls again."""
    backends = [Backend(free_port(), free_port()) for _ in range(2)]
    with ExitStack() as stack:
        lives = [stack.enter_context(ExitStack()) for _ in backends]

        def start(index: int) -> None:
            backend = backends[index]
            server = replica(
                backend.port, SHIPPED.parents[1], front, metrics_port=backend.metrics_port, lame_duck_s=LAME_DUCK_S
            )
            lives[index].enter_context(server)

        for index in range(len(backends)):
            start(index)
        address = stack.enter_context(balancer(name, backends))
        with Load(address, _expected(backends[0].port)) as load:
            for index in range(len(backends)):
                await_calls(f"127.0.0.1:{backends[index].port}")
            for done in range(count):
                lives[done % 2].close()  # SIGTERM, and its end
                start(done % 2)
                await_calls(f"127.0.0.1:{backends[done % 2].port}")
    return load.counts


def _expected(port: int) -> float:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        predict: Any = channel.unary_unary(PREDICT)
        (value,) = PredictResponse.FromString(predict(request().SerializeToString(), timeout=TIMEOUT_S)).probabilities
    return float(value)


@click.command()
@click.option("--restarts", type=click.IntRange(1), default=6, show_default=True, help="Of each balancer's servers.")
@click.option("--balancer", "names", type=click.Choice(["envoy", "haproxy"]), multiple=True, help="Default: both.")
@click.option("--front", type=click.Choice(["native", "grpcio"]), default="native", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True, help="JSON of the counts.")
def main(restarts: int, names: tuple[str, ...], front: str, out: Path) -> None:
    """Rolling restarts behind a balancer: counts of calls, streams and how they ended."""
    console = Console(stderr=True)
    how = (
        f"{front} front; {UNARY_CALLERS} unary callers without retries and {STREAM_CALLERS} streams with a frame every "
    )
    how += f"{FRAME_EVERY_S * 1000:g} ms; two servers, {restarts} restarts in turn, lame_duck_s {LAME_DUCK_S:g}"
    command = shlex.join(["python", "-m", "benchmarks.drain", *sys.argv[1:]])
    header(console, command, how)
    result: dict[str, Any] = {
        "command": command, "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "machine": machine(), "how": how,
        "balancers": {},
    }  # fmt: skip
    failed = False
    for name in names or ("envoy", "haproxy"):
        try:
            program(name)
        except RuntimeError as error:
            console.print(f"{name}: skipped, {error}", highlight=False)
            continue
        began_s = monotonic()
        counts = rolling_restarts(name, restarts, front)
        result["balancers"][name] = {**counts.figures(), "restarts": restarts, "seconds": round(monotonic() - began_s)}
        failed = failed or not counts.ok
        console.print(
            f"{name}: {counts.calls} unary calls, {counts.failed_calls} failed; {counts.streams} streams, "
            f"{counts.ended_unavailable} ended with UNAVAILABLE, {counts.without_status} without a status; "
            f"{counts.frames} frames answered; {counts.wrong_answers} wrong answers",
            highlight=False,
        )
        for failure, times in counts.failures.most_common(5):
            console.print(f"  {times} x {failure}", highlight=False)
    result["rows"] = [row_as_builtins(row) for row in _rows(result["balancers"])]  # for benchmarks.scorecard
    out.write_text(json.dumps(result, indent=1) + "\n")
    if failed:
        sys.exit(1)


def _rows(balancers: dict[str, dict[str, Any]]) -> list[Row]:
    def total(name: str) -> int:
        return sum(counts[name] for counts in balancers.values())

    what, how = "drain behind Envoy and HAProxy", f"behind {' and '.join(balancers)}"
    calls = f"{total('calls')} calls {how}"
    streams = f"{total('streams')} streams {how}, {total('ended_unavailable')} ended with UNAVAILABLE"
    return [
        Row(
            what=f"{what}, failed unary calls",
            unit="calls",
            ours=total("failed_calls"),
            target=at_most(0, "calls"),
            note=calls,
        ),
        Row(
            what=f"{what}, streams without a status",
            unit="streams",
            ours=total("without_status"),
            target=at_most(0, "streams"),
            note=streams,
        ),
    ]


if __name__ == "__main__":
    main()
