"""`python -m benchmarks.fronts [ROUNDS]`: the native front beside other transports, in turns, in one run."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.h2load import h2load
from benchmarks.machine import header
from benchmarks.native.peers import cpp_echo, stream_client
from benchmarks.peers.environments import python_of
from benchmarks.processes import free_port, only_model, serving
from clients.requests import packed_request
from common.schema import CORE_1, CORE_1_EXAMPLE

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MODEL = ROOT / "models" / "volatility" / "1" / "model.onnx"
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
READY_S = 30.0
ROW = array("d", [CORE_1_EXAMPLE[name] for name in CORE_1.names])
Figures = dict[str, list[float]]


@contextmanager
def _running(command: list[str], port: int, **environ: str) -> Iterator[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "proto"), **environ}
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True)
    try:
        until = monotonic() + READY_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if monotonic() > until or process.poll() is not None:
                    raise
                sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)


def _pygrpc_native(console: Console) -> AbstractContextManager[str]:
    port = free_port()
    python = python_of(HERE / "pygrpc_native", console)
    return _running([str(python), str(HERE / "pygrpc_native" / "server.py"), str(port), str(MODEL), "100"], port)


def _pyvoy(console: Console) -> AbstractContextManager[str]:
    port = free_port()
    python = python_of(HERE / "pyvoy", console)
    command = [str(python.with_name("pyvoy")), "--port", str(port), "--loop", "uvloop", "app:app"]
    paths = os.pathsep.join((str(ROOT / "proto"), str(HERE / "pyvoy")))
    return _running(command, port, MODEL=str(MODEL), PYTHONPATH=paths)


def _measure(address: str, figures: Figures, *, streams: bool) -> None:
    one = packed_request(ROW, 1, CORE_1.hash)
    for in_flight, calls in ((1, 4000), (32, 30_000)):
        figures.setdefault(f"Predict, {in_flight} in flight, calls/s", []).append(h2load(address, in_flight, calls, 1))
    if streams:
        ping = stream_client(address, "pingpong", one, count=3000)["p50_us"]
        figures.setdefault("stream, ping-pong p50, us", []).append(ping)
        pipelined = stream_client(address, "pipelined", one, count=60_000, in_flight=256, coalesce=True)
        figures.setdefault("stream, pipelined, messages/s", []).append(pipelined["messages_per_s"])


def main() -> None:
    console = Console(stderr=True)
    figures: dict[str, Figures] = {}
    with ExitStack() as stack:
        stack.enter_context(only_model(MODEL.parent))
        fronts = {
            "native (ours, whole)": (stack.enter_context(serving("--front", "native")), True),
            "pygrpc-native 0.5 (prototype)": (stack.enter_context(_pygrpc_native(console)), False),
            "pyvoy 1.3 (prototype)": (stack.enter_context(_pyvoy(console)), True),
            "grpcio (ours, whole)": (stack.enter_context(serving("--front", "grpcio")), True),
            "C++ echo, no model": (stack.enter_context(cpp_echo()).address, True),
        }
        for _ in track(range(ROUNDS), "rounds", console=console):
            for name, (address, streams) in fronts.items():
                _measure(address, figures.setdefault(name, {}), streams=streams)
    names = list(next(iter(figures.values())))
    table = Table("front", *names)
    for front, measured in figures.items():
        table.add_row(front, *(f"{statistics.median(measured[one]):,.0f}" if one in measured else "-" for one in names))
    out = Console()
    header(out, "python -m benchmarks.fronts", f"{ROUNDS} rounds in turns, medians; h2load, C++ stream client")
    out.print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
