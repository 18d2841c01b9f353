"""The inference server beside a bare grpc.aio echo of the same contract: latency, throughput, rows.

Both run as processes of their own on loopback, measured in turns in one run, so that what counts, the
ratio, is of the same machine at the same minute. Two load generators: `h2load` (C, where it is on PATH),
which costs little itself, and our own Python clients, which show what a Python program gets. h2load looks
at no gRPC status, so each server's answers are checked before and after.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import statistics
import struct
import subprocess
import tempfile
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.echo import echoing
from benchmarks.machine import header
from benchmarks.processes import serving
from clients.aio import AsyncClient
from clients.requests import packed_request
from clients.sync import Client, PredictStream
from common.schema import CORE_1, CORE_1_EXAMPLE
from volcast.v1 import PredictRequest

ROUNDS = 5
IN_FLIGHT = 32
ROWS = 256
ROW = array("d", [CORE_1_EXAMPLE[name] for name in CORE_1.names])
URL = "http://{}/volcast.v1.InferenceService/Predict"


@dataclass
class Series:
    """One figure of both servers over the rounds. better: "less" or "more"."""

    name: str
    unit: str
    better: str
    server: list[float] = field(default_factory=list)
    echo: list[float] = field(default_factory=list)

    def medians(self) -> tuple[float, float]:
        return statistics.median(self.server), statistics.median(self.echo)

    def ratio(self) -> float:
        """How the server fares beside the echo; 1 is as fast, above 1 is faster."""
        server, echo = self.medians()
        return echo / server if self.better == "less" else server / echo


Measure = Callable[[str], dict[str, float]]


def run(console: Console) -> dict[str, Any]:
    """Prints the table and returns its figures, medians over the rounds."""
    h2load = shutil.which("h2load")
    table: dict[str, Series] = {}
    # One event loop for the whole run: grpc.aio's loops share one completion queue (grpc#25364).
    with serving() as server, echoing() as echo, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        measures: list[Measure] = [_unary, _stream_ping, _stream_pipelined, _stream_rows, _unary_in_flight(runner)]
        if h2load is not None:
            measures = [_h2load_measure(h2load), *measures]
        for _ in range(ROUNDS):
            for measure in measures:
                for address, which in ((server, "server"), (echo, "echo")):
                    _note(table, which, measure(address))
        _check(server)
    how = f"{ROUNDS} rounds in turns, medians; 1 connection, packed float64 rows of {CORE_1.name}, shipped model"
    header(console, "volcast bench serving", how)
    console.print(_printed(table))
    if h2load is None:
        console.print("h2load is not on PATH (Debian: nghttp2-client): no figures of it")
    return {
        name: {"server": series.medians()[0], "echo": series.medians()[1], "ratio": series.ratio()}
        for name, series in table.items()
    }


def _note(table: dict[str, Series], which: str, figures: dict[str, float]) -> None:
    for name, value in figures.items():
        unit = name.rpartition(", ")[2]
        series = table.setdefault(name, Series(name, unit, "less" if unit == "us" else "more"))
        (series.server if which == "server" else series.echo).append(value)


def _printed(table: dict[str, Series]) -> Table:
    printed = Table("what", "server", "bare grpc.aio echo", "server / echo")
    for series in table.values():
        server, echo = series.medians()
        verdict = f"{series.ratio():.2f}" + (" (echo's time over ours)" if series.better == "less" else "")
        printed.add_row(series.name, f"{server:,.0f}", f"{echo:,.0f}", verdict)
    return printed


def _check(address: str) -> None:
    with Client(address) as client:
        response = client.predict_packed(ROW, 1, CORE_1.hash)
    if not 0 < response.probabilities[0] < 1 or response.model_name != "volatility":
        raise RuntimeError(f"the server answers wrongly: {response}")


def _request(rows: int) -> PredictRequest:
    return packed_request(ROW * rows, rows, CORE_1.hash)


def _latencies(call: Callable[[], object], count: int, name: str) -> dict[str, float]:
    """p50 and p99 of `count` calls one after the other, after a tenth of them unmeasured."""
    times = []
    for _ in range(count + count // 10):
        began = perf_counter()
        call()
        times.append(perf_counter() - began)
    cuts = statistics.quantiles(times[count // 10 :], n=100)
    return {f"{name}, p50, us": cuts[49] * 1e6, f"{name}, p99, us": cuts[98] * 1e6}


def _unary(address: str) -> dict[str, float]:
    with Client(address) as client:
        return _latencies(
            lambda: client.predict_packed(ROW, 1, CORE_1.hash), 600, "Predict, 1 in flight, Python client"
        )


def _stream_ping(address: str) -> dict[str, float]:
    with Client(address) as client, client.stream() as stream:
        name = "StreamPredict, 1 in flight, Python client"
        return _latencies(lambda: stream.predict_packed(ROW, 1, CORE_1.hash), 600, name)


def _stream_pipelined(address: str) -> dict[str, float]:
    per_s = _frames_per_s(address, 1, 2500, IN_FLIGHT)
    return {f"StreamPredict, {IN_FLIGHT} in flight, Python client, frames/s": per_s}


def _stream_rows(address: str) -> dict[str, float]:
    per_s = _frames_per_s(address, ROWS, 800, 8)
    return {f"StreamPredict, {ROWS} rows a frame, 8 in flight, Python client, rows/s": per_s * ROWS}


def _frames_per_s(address: str, rows: int, count: int, in_flight: int) -> float:
    values = ROW * rows

    def turn(stream: PredictStream) -> None:
        stream.send_packed(0, values, rows, CORE_1.hash)
        answer = stream.receive()
        if len(answer.response.probabilities) != rows:
            raise RuntimeError(f"the server answers wrongly: {answer}")

    with Client(address) as client, client.stream() as stream:
        for _ in range(in_flight - 1):
            stream.send_packed(0, values, rows, CORE_1.hash)
        for _ in range(count // 10):
            turn(stream)
        began = perf_counter()
        for _ in range(count):
            turn(stream)
        return count / (perf_counter() - began)


def _unary_in_flight(runner: asyncio.Runner) -> Measure:
    each = 1500 // IN_FLIGHT

    async def caller(client: AsyncClient) -> None:
        for _ in range(each):
            await client.predict_packed(ROW, 1, CORE_1.hash)

    async def load(address: str) -> float:
        async with AsyncClient(address, timeout_s=20) as client:
            await caller(client)
            began = perf_counter()
            await asyncio.gather(*(caller(client) for _ in range(IN_FLIGHT)))
            return each * IN_FLIGHT / (perf_counter() - began)

    name = f"Predict, {IN_FLIGHT} in flight, Python client, calls/s"
    return lambda address: {name: runner.run(load(address))}


def _h2load_measure(program: str) -> Measure:
    """Calls/s of Predict: 1 and 32 in flight with one row, 16 in flight with 256 rows."""

    def measure(address: str) -> dict[str, float]:
        return {
            "Predict, 1 in flight, h2load, calls/s": _h2load(program, address, 1, 1500, 1),
            f"Predict, {IN_FLIGHT} in flight, h2load, calls/s": _h2load(program, address, IN_FLIGHT, 5000, 1),
            f"Predict, {ROWS} rows a call, 16 in flight, h2load, rows/s": ROWS
            * _h2load(program, address, 16, 2500, ROWS),
        }

    return measure


def _h2load(program: str, address: str, in_flight: int, calls: int, rows: int) -> float:
    message = _request(rows).SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder, "body")
        body.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
        command = [program, "-c1", f"-m{in_flight}", f"-n{calls}", f"-d{body}"]
        command += ["-Hcontent-type: application/grpc", "-Hte: trailers", URL.format(address)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    finished = re.search(r"finished in .*?, ([\d.]+) req/s", printed)
    if finished is None or f"{calls} succeeded" not in printed:
        raise RuntimeError(f"h2load: {printed}")
    return float(finished[1])
