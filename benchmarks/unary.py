"""Predict, closed loop: one row a call at 1 and 32 in flight, and 256 rows a call."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep

from benchmarks.echo import echoing
from benchmarks.h2load import h2load
from benchmarks.native.peers import NotBuiltError, built, cpp_echo, rust_echo
from benchmarks.peers import peer
from benchmarks.peers.specs import PEERS
from benchmarks.processes import Process, cpu_s, server
from benchmarks.targets import Row, at_least, at_most, medians
from benchmarks.trees import tree_bundle
from benchmarks.turns import Measure, Run

IN_FLIGHT = 32
ROWS = 256
_GRPCIO = "our grpcio front, TLS"
CPP, TONIC, PYTHON = "C++ echo, no model", "Rust tonic echo, no model", "bare grpc.aio echo, no model"


def many_in_flight(run: Run) -> Iterator[Row]:
    """What one process of ours carries, beside echoes that run no model."""
    with ExitStack() as stack:
        measures = {"ours": _rate(stack.enter_context(server("--front", "native")).address, run.scaled(60_000))}
        measures[CPP] = _rate(stack.enter_context(cpp_echo()).address, run.scaled(60_000))
        if built("echo_rust"):
            measures[TONIC] = _rate(stack.enter_context(rust_echo()).address, run.scaled(60_000))
        measures[PYTHON] = _rate(stack.enter_context(echoing()), run.scaled(8_000))
        rates = run.in_turns("unary, 32 in flight", measures)
    what = "Predict, 1 row, logistic regression, 32 in flight"
    targets = {CPP: at_least(1.1), TONIC: at_least(0.7)}
    for name in [name for name in rates if name != "ours"]:
        yield medians(what, "calls/s", rates["ours"], name, rates[name], target=targets.get(name))


def _rate(address: str, calls: int, in_flight: int = IN_FLIGHT) -> Measure:
    return lambda: h2load(address, in_flight, calls)


def one_in_flight(run: Run) -> Iterator[Row]:
    """Latency alone, and what it costs: the spin is of CPU, and only while calls arrive."""
    with server("--front", "native") as ours, cpp_echo() as cpp:
        costs = {"ours": _Cost(ours.pid), CPP: _Cost(cpp.pid)}
        calls = run.scaled(15_000)
        measures = {
            "ours": lambda: costs["ours"].of(lambda: 1e6 / h2load(ours.address, 1, calls)),
            CPP: lambda: costs[CPP].of(lambda: 1e6 / h2load(cpp.address, 1, calls)),
        }
        took = run.in_turns("unary, 1 in flight", measures)
        run.say("unary, idle")
        idle = _idle_cores(ours, run.seconds(5, 2))
    yield medians("Predict, 1 row, 1 in flight, mean latency", "us", took["ours"], CPP, took[CPP], target=at_most(1.0))
    busy = "CPU taken by the server meanwhile, cores"
    yield medians(busy, "cores", costs["ours"].cores, CPP, costs[CPP].cores)
    yield Row(
        what="CPU taken by the server, idle after that load", unit="cores", ours=idle, target=at_most(0.01, "cores")
    )


class _Cost:
    """The cores that a process kept busy while it was measured."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.cores: list[float] = []

    def of(self, measure: Callable[[], float]) -> float:
        before, began = cpu_s(self._pid), monotonic()
        figure = measure()
        self.cores.append((cpu_s(self._pid) - before) / (monotonic() - began))
        return figure


def _idle_cores(process: Process, seconds: float) -> float:
    sleep(1)  # what the last call left behind is done
    before = process.cpu_s()
    sleep(seconds)
    return (process.cpu_s() - before) / seconds


def trees(run: Run) -> Iterator[Row]:
    """A model that takes time: gradient-boosted trees."""
    with tempfile.TemporaryDirectory() as folder:
        run.say("trees, fitting")
        note = tree_bundle(Path(folder))
        with server("--front", "native", "--models-dir", folder) as ours, cpp_echo() as cpp:
            calls = run.scaled(40_000)
            rates = run.in_turns("trees", {"ours": _rate(ours.address, calls), CPP: _rate(cpp.address, calls)})
    what = "Predict, 1 row, gradient-boosted trees, 32 in flight"
    yield medians(what, "calls/s", rates["ours"], CPP, rates[CPP], target=at_least(0.6), note=note)


def grpcio_front(run: Run) -> Iterator[Row]:
    """Our second front, beside the server that gRPC's documentation leads to, and beside one that does nothing.

    The last is what grpc.aio itself costs: no server on it can be faster.
    """
    beside = PEERS["grpc_aio"].title
    with server("--front", "grpcio") as ours, peer("grpc_aio") as plain, echoing() as bare:
        for in_flight, calls in ((1, run.scaled(4_000)), (IN_FLIGHT, run.scaled(10_000))):
            measures = {
                "ours": _rate(ours.address, calls, in_flight),
                beside: _rate(plain.address, calls, in_flight),
                PYTHON: _rate(bare, calls, in_flight),
            }
            rates = run.in_turns(f"grpcio front, {in_flight} in flight", measures)
            what = f"Predict, 1 row, grpcio front, {in_flight} in flight"
            yield medians(what, "calls/s", rates["ours"], beside, rates[beside], target=at_least(1.3))
            yield medians(what, "calls/s", rates["ours"], PYTHON, rates[PYTHON])


def tls(run: Run) -> Iterator[Row]:
    """What encryption costs on either front; their plaintext figures are in other rows."""
    with tempfile.TemporaryDirectory() as folder:
        cert, key = f"{folder}/server.crt", f"{folder}/server.key"
        _self_signed(cert, key)
        files = ("--tls-cert", cert, "--tls-key", key)
        with server("--front", "native", *files) as ours, server("--front", "grpcio", *files) as grpcio:
            calls = {"ours": run.scaled(40_000), _GRPCIO: run.scaled(6_000)}
            measures: dict[str, Measure] = {
                "ours": lambda: h2load(ours.address, IN_FLIGHT, calls["ours"], ca=cert),
                _GRPCIO: lambda: h2load(grpcio.address, IN_FLIGHT, calls[_GRPCIO], ca=cert),
            }
            rates = run.in_turns("TLS, 32 in flight", measures)
    yield medians("Predict, 1 row, TLS, 32 in flight", "calls/s", rates["ours"], _GRPCIO, rates[_GRPCIO])


def _self_signed(cert: str, key: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise NotBuiltError("openssl is not on PATH")
    command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=60)


def many_rows(run: Run) -> Iterator[Row]:
    """256 rows a call: the cost of a message is shared by many rows."""
    calls = run.scaled(25_000)
    with server("--front", "native") as ours, cpp_echo() as cpp:
        rates = run.in_turns(
            "unary, 256 rows",
            {
                "ours": lambda: ROWS * h2load(ours.address, 16, calls, ROWS),
                CPP: lambda: ROWS * h2load(cpp.address, 16, calls, ROWS),
            },
        )
    what = f"Predict, {ROWS} rows a call, 16 in flight"
    yield medians(what, "rows/s", rates["ours"], CPP, rates[CPP], target=at_least(6e6, "rows/s"))
