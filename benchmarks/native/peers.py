"""The native programs from Python: echoes as processes of their own, generators as calls.

Each raises NotBuiltError where `benchmarks/native/build` has not made the program.
"""

from __future__ import annotations

import json
import os
import selectors
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from volcast.v1 import PredictRequest

READY_S = 20.0
STREAM_LIMIT_S = 180.0

StreamMode = Literal["pingpong", "pipelined", "rows"]
Arrivals = Literal["poisson", "constant"]
UnaryClient = Literal["unary_client", "unary_go", "unary_tonic"]

# Where benchmarks/native/build puts what CMake has not built.
_FOLDERS = {"echo_rust": "rust/release", "unary_tonic": "rust/release", "unary_go": "go/bin"}


class NotBuiltError(RuntimeError):
    """A native program is not there."""


class NativeError(RuntimeError):
    """A native program ended badly: a wrong answer, a broken stream, nobody listening."""


def built(name: str) -> bool:
    return _path(name).is_file()


@dataclass(frozen=True)
class Echo:
    """A running server without a model."""

    address: str
    pid: int


@contextmanager
def cpp_echo() -> Iterator[Echo]:
    """gRPC C++, callback API, default threads, no model."""
    with _echo("echo_cpp") as echo:
        yield echo


@contextmanager
def rust_echo() -> Iterator[Echo]:
    """tonic on one thread, no model."""
    with _echo("echo_rust") as echo:
        yield echo


def unary_client(
    address: str,
    request: PredictRequest,
    options: Mapping[str, object],
    *,
    client: UnaryClient = "unary_client",
    seconds: float = 1.5,
    warmup_s: float = 0.3,
) -> dict[str, float]:
    """Unary calls in a closed loop, another row in each; `request` is one packed row, the centre of what is sent.

    options: in-flight; of unary_client (C++) also connections, rows ("1,2,3": that many rows a call, in-flight calls
    of each), event-times and product-ids (1: another one in every call), server-pid. Gives calls, calls_per_s, p50_us,
    p99_us of the calls that ended in `seconds`, every answer checked; unary_client gives server_cpu_us and
    client_cpu_us too, the CPU per call.
    """
    words = {"seconds": seconds, "warmup-s": warmup_s, **options}
    return _generate(client, address, request, [], words, warmup_s + seconds + 60)


def stream_client(
    address: str,
    mode: StreamMode,
    request: PredictRequest,
    *,
    count: int,
    warmup: int | None = None,
    in_flight: int = 32,
    coalesce: bool = False,
) -> dict[str, Any]:
    """One StreamPredict stream of `count` messages, every answer checked; in_flight 0 is unbounded.

    coalesce sends in bunches of half the window, for about half the client's CPU. Gives messages_per_s, rows_per_s,
    p50_us, p99_us, mean_us, most_in_flight, client_cpu_s.
    """
    rows = request.packed.row_count or len(request.named.rows)
    options: dict[str, object] = {"count": count, "warmup": count // 10 if warmup is None else warmup, "rows": rows}
    options |= {"in-flight": in_flight, "coalesce": int(coalesce)}
    return _generate("stream_client", address, request, [mode], options, STREAM_LIMIT_S)


def open_loop(
    address: str,
    rate: float,
    seconds: float,
    request: PredictRequest,
    *,
    connections: int = 4,
    arrivals: Arrivals = "poisson",
    seed: int = 1,
    warmup_s: float = 0.5,
    drain_s: float = 5.0,
    max_outstanding: int = 20_000,
    timeout_ms: int = 0,
    headers: Sequence[str] = (),
    tick_us: int = 0,
    spin: bool = False,
) -> dict[str, Any]:
    """Predict at `rate` calls/s whatever the server does; latencies from the instant each call was due.

    timeout_ms is each call's deadline (0: none). headers are "name: value" lines added to each call.
    tick_us above 0 wakes the generator this often only: a fraction of its CPU, and latencies up to that much
    too long; for overload. spin takes a whole core for the exactest timing. Gives offered, not_sent (the
    limit on outstanding calls was reached), ok, resource_exhausted, others by status, goodput_per_s, ok_us,
    refused_us, lag_us: how late the generator itself was, and start_us: how late a call could start, the
    server's limits on streams and bytes included.
    """
    options: dict[str, object] = {
        "rate": rate,
        "seconds": seconds,
        "connections": connections,
        "arrivals": arrivals,
        "seed": seed,
        "warmup-s": warmup_s,
        "drain-s": drain_s,
        "max-outstanding": max_outstanding,
        "timeout-ms": timeout_ms,
        "tick-us": tick_us,
        "spin": int(spin),
    }
    extra = [part for header in headers for part in ("--header", header)]
    return _generate("open_loop", address, request, [], options, warmup_s + seconds + drain_s + 15, extra)


def framed(request: PredictRequest) -> bytes:
    """The request as gRPC puts it on the wire: not compressed, length, message."""
    message = request.SerializeToString()
    return b"\0" + struct.pack(">I", len(message)) + message


def _generate(
    name: str,
    address: str,
    request: PredictRequest,
    words: Sequence[str],
    options: Mapping[str, object],
    limit_s: float,
    extra: Sequence[str] = (),
) -> dict[str, Any]:
    program = _program(name)
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder, "request")
        body.write_bytes(framed(request))
        command = [str(program), address, *words, "--request", str(body), *extra]
        for option, value in options.items():
            command += [f"--{option}", str(value)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode != 0:
        raise NativeError(done.stderr.strip() or f"{name} ended with {done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@contextmanager
def _echo(name: str) -> Iterator[Echo]:
    process = subprocess.Popen([str(_program(name)), "0"], stdout=subprocess.PIPE, text=True)
    try:
        yield Echo(f"127.0.0.1:{_port(process)}", process.pid)
    finally:
        process.kill()
        process.communicate()


def _port(process: subprocess.Popen[str]) -> int:
    """The port an echo prints once it listens."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(READY_S) else ""
    if not line.strip().isdigit():
        raise NativeError(f"{process.args!r} did not listen within {READY_S:g} s")
    return int(line)


def _program(name: str) -> Path:
    path = _path(name)
    if not path.is_file():
        raise NotBuiltError(f"{name} is not built; run: benchmarks/native/build (--install for Debian's packages)")
    return path


def _path(name: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "volcast", "bench")
    return cache / _FOLDERS.get(name, "cpp") / name
