"""Mixed calls of every kind, each answer compared with ONNX Runtime run here on the same rows.

python -m benchmarks.mixed --calls 50000 [--front native|grpcio] [--seed 1] [--out FILE]

Kinds: float64, float32 and named rows, tensors of the Open Inference Protocol, and calls with one fault each,
whose code and field are known; 1 to 2,000 rows; linear models and trees, by default, label and version; unary
calls and streams. Three clients take part: grpcio's synchronous and asyncio clients, and HTTP/2 frames written
here with hpack. In the middle the stable version changes under all of them.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import sys
import tempfile
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import click
import grpc
from rich.console import Console

from benchmarks.machine import header, machine
from benchmarks.mixed_cases import DEFAULT, MODELS, OTHER, STABLE, TOLERANCE, Case, Cases, Reference, Swap
from benchmarks.mixed_clients import Outcome, RawClient, code_and_fields
from benchmarks.processes import serving
from volcast.oip.v2 import RepositoryModelLoadRequest

STREAM_PATH = "/volcast.v1.InferenceService/StreamPredict"
LOAD_PATH = "/inference.GRPCInferenceService/RepositoryModelLoad"
TIMEOUT_S = 120.0
AIO_CALLERS, SYNC_CALLERS, AIO_STREAMS = 8, 2, 2
RAW_PIPELINE = 16  # calls that the third client has in flight
FRAMES = 50  # of one stream
SHARES = {"grpcio sync": 0.2, "grpcio aio": 0.3, "aio stream": 0.3, "raw HTTP/2": 0.2}
MESSAGE_LIMITS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


class Run:
    """Counts and faults of one run; every client thread reports here."""

    def __init__(self, reference: Reference, swap: Swap, calls: int, seed: int) -> None:
        self._reference = reference
        self.swap = swap
        self._calls = calls
        self._seed = seed
        self._lock = threading.Lock()
        self._left = {client: round(calls * share) for client, share in SHARES.items()}
        self._left["grpcio sync"] += calls - sum(self._left.values())
        self.counts: Counter[tuple[str, str]] = Counter()
        self.rows = 0
        self.faults: list[str] = []
        self.after_swap = 0
        self.failed: BaseException | None = None

    @property
    def done(self) -> int:
        return sum(self.counts.values())

    def cases(self, client: str, number: int) -> Cases:
        return Cases(self._reference, f"{self._seed}/{client}/{number}")

    def claim(self, client: str, count: int = 1) -> int:
        """How many more calls this client makes, at most `count`."""
        with self._lock:
            claimed = min(count, self._left[client])
            self._left[client] -= claimed
            return claimed

    def check(self, client: str, case: Case, outcome: Outcome, stable_before: frozenset[str]) -> None:
        allowed = stable_before | self.swap.stable
        fault = self._reference.fault_of(case, outcome, allowed)
        with self._lock:
            self.counts[client, case.kind] += 1
            self.rows += len(case.matrix) if case.matrix is not None else 0
            self.after_swap += self.swap.finished
            if fault:
                self.faults.append(f"{client}, {case.kind}: {fault}"[:400])


def sync_calls(run: Run, address: str, number: int) -> None:
    client = "grpcio sync"
    cases = run.cases(client, number)
    with grpc.insecure_channel(address, options=MESSAGE_LIMITS) as channel:
        while run.claim(client):
            case, before = cases.unary(), run.swap.stable
            call: Any = channel.unary_unary(case.path)
            try:
                outcome = Outcome(call(case.raw, timeout=TIMEOUT_S))
            except grpc.RpcError as error:
                outcome = code_and_fields(error)
            run.check(client, case, outcome, before)


def raw_calls(run: Run, address: str, number: int) -> None:
    client = "raw HTTP/2"
    cases = run.cases(client, number)
    with RawClient(address, TIMEOUT_S) as connection:
        while count := run.claim(client, RAW_PIPELINE):
            batch, before = [cases.unary() for _ in range(count)], run.swap.stable
            for case, outcome in zip(batch, connection.calls([(one.path, one.raw) for one in batch]), strict=True):
                run.check(client, case, outcome, before)


async def aio_calls(run: Run, channel: grpc.aio.Channel, number: int) -> None:
    client = "grpcio aio"
    cases = run.cases(client, number)
    while run.claim(client):
        case, before = cases.unary(), run.swap.stable
        call: Any = channel.unary_unary(case.path)
        try:
            outcome = Outcome(await call(case.raw, timeout=TIMEOUT_S))
        except grpc.aio.AioRpcError as error:
            outcome = code_and_fields(error)
        run.check(client, case, outcome, before)


async def aio_streams(run: Run, channel: grpc.aio.Channel, number: int) -> None:
    """Streams of FRAMES frames, all under way at once."""
    client = "aio stream"
    cases = run.cases(client, number)
    while count := run.claim(client, FRAMES):
        frames, before = [cases.frame(index + 1) for index in range(count)], run.swap.stable
        converse: Any = channel.stream_stream(STREAM_PATH)
        stream = converse(timeout=TIMEOUT_S)

        async def send(stream: Any = stream, frames: Any = frames) -> None:
            for frame in frames:
                await stream.write(frame.raw)
            await stream.done_writing()

        sender = asyncio.ensure_future(send())
        answers = [raw async for raw in stream]
        await sender
        if len(answers) != count:
            run.faults.append(f"{client}: {count} frames sent, {len(answers)} answered")
        for index, (case, raw) in enumerate(zip(frames, answers, strict=False)):
            run.check(client, case, Outcome.of_frame(raw, index + 1), before)


async def swap_in_the_middle(run: Run, address: str, total: int) -> None:
    while run.done < total // 2:  # noqa: ASYNC110 - other threads count
        await asyncio.sleep(0.01)
    async with grpc.aio.insecure_channel(address) as channel:
        load: Any = channel.unary_unary(LOAD_PATH)
        run.swap.begin()
        await load(RepositoryModelLoadRequest(model_name=run.swap.name).SerializeToString(), timeout=TIMEOUT_S)
        run.swap.end()


async def asynchronous(run: Run, address: str, total: int) -> None:
    async with grpc.aio.insecure_channel(address, options=MESSAGE_LIMITS) as channel:
        work = [aio_calls(run, channel, number) for number in range(AIO_CALLERS)]
        work += [aio_streams(run, channel, number) for number in range(AIO_STREAMS)]
        await asyncio.gather(*work, swap_in_the_middle(run, address, total))


def mixed_run(calls: int, seed: int, front: str) -> Run:
    """A server with copies of the shipped models, and all clients at once."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        shutil.copytree(MODELS, models)
        run = Run(Reference(models), Swap(models, DEFAULT, STABLE, OTHER), calls, seed)
        with serving("--models-dir", str(models), "--front", front) as address:

            def guarded(target: Any, number: int) -> None:
                try:
                    target(run, address, number)
                except BaseException as error:
                    run.failed = error
                    raise

            work = [(sync_calls, number) for number in range(SYNC_CALLERS)] + [(raw_calls, 0)]
            threads = [threading.Thread(target=guarded, args=each, daemon=True) for each in work]
            for thread in threads:
                thread.start()
            asyncio.run(asynchronous(run, address, calls))
            for thread in threads:
                thread.join()
    if run.failed is not None:
        raise run.failed
    return run


@click.command()
@click.option("--calls", type=click.IntRange(100), default=50_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--front", type=click.Choice(["native", "grpcio"]), default="native", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="JSON of the counts.")
def main(calls: int, seed: int, front: str, out: Path | None) -> None:
    """Mixed calls, each answer compared with ONNX Runtime: prints the counts per kind; exits 1 at a difference."""
    console = Console(stderr=True, width=110)
    command = shlex.join(["python", "-m", "benchmarks.mixed", *sys.argv[1:]])
    how = f"{front} front; seed {seed}; tolerance {TOLERANCE:g} for all rows (float32 values widen to float64 exactly)"
    header(console, command, how)
    began_s = monotonic()
    run = mixed_run(calls, seed, front)
    seconds = round(monotonic() - began_s, 1)
    kinds = sorted({kind for _, kind in run.counts})
    for kind in kinds:
        by_client = {client: run.counts[client, kind] for client in SHARES}
        parts = ", ".join(f"{count:,} {client}" for client, count in by_client.items() if count)
        console.print(f"{kind:24} {sum(by_client.values()):7,}  ({parts})", highlight=False)
    console.print(
        f"{run.done:,} calls, {run.rows:,} rows, {run.after_swap:,} calls after the swap, {len(run.faults)} wrong, "
        f"{seconds} s",
        highlight=False,
    )
    for fault in run.faults[:10]:
        console.print(f"  {fault}", highlight=False)
    if out is not None:
        figures = {
            "command": command, "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "machine": machine(), "how": how,
            "calls": run.done, "rows": run.rows, "after_swap": run.after_swap, "wrong": len(run.faults),
            "seconds": seconds,
            "kinds": {kind: sum(run.counts[client, kind] for client in SHARES) for kind in kinds},
        }  # fmt: skip
        out.write_text(json.dumps(figures, indent=1) + "\n")
    if run.faults or run.done != calls or not run.after_swap:
        sys.exit(1)


if __name__ == "__main__":
    main()
