"""Calls that fail while models are swapped, and while servers behind a client are restarted: none may.

python -m benchmarks.rolling --restarts 20 --swaps 100 [--front native|grpcio] [--json]
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import click
import grpc
import msgspec
from rich.console import Console

from benchmarks.machine import header
from benchmarks.processes import free_port
from common.schema import CORE_1, CORE_1_EXAMPLE
from common.status import STATUS_FD
from volcast.oip.v2 import RepositoryModelLoadRequest
from volcast.v1 import NamedRow, NamedRows, PredictRequest, PredictResponse, StreamPredictRequest, StreamPredictResponse

SHIPPED = Path(__file__).resolve().parents[1] / "models" / "volatility" / "1"
NAME = "volatility"
PREDICT = "/volcast.v1.InferenceService/Predict"
STREAM = "/volcast.v1.InferenceService/StreamPredict"
LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"
TIMEOUT_S = 30.0
UNARY_CALLERS, STREAM_CALLERS = 3, 2
LAME_DUCK_S = 0.25  # the client watches health, so it leaves at once
CALLS_OF_A_REPLICA = 50  # that a restarted one answers before the next one goes
# As production clients do: a request that a server refused is sent again, to another server if there is another.
RETRIES = [
    {
        "name": [{}],
        "retryPolicy": {
            "maxAttempts": 5,
            "initialBackoff": "0.05s",
            "maxBackoff": "0.5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        },
    }
]
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # grpcio's servers cancel a call that reaches them just after their GOAWAY. A client that watches health has left.
    "healthCheckConfig": {"serviceName": "volcast.v1.InferenceService"},
    "methodConfig": RETRIES,
}


@dataclass
class Outcome:
    calls: int = 0
    frames: int = 0
    failures: list[str] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)
    seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "frames": self.frames,
            "failed": len(self.failures),
            "failures": self.failures[:5],
            "versions": len(self.versions),
            "seconds": round(self.seconds, 1),
        }


class Load:
    """Callers without a pause; what goes wrong is kept, and its caller goes on."""

    def __init__(self, channel: grpc.Channel, unary: int = UNARY_CALLERS, streams: int = STREAM_CALLERS) -> None:
        self._channel = channel
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.outcome = Outcome()
        targets = [self._call] * unary + [self._converse] * streams
        self._callers = [threading.Thread(target=self._guarded, args=(one,)) for one in targets]

    def __enter__(self) -> Load:
        self._began_s = monotonic()
        for caller in self._callers:
            caller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for caller in self._callers:
            caller.join()
        self.outcome.seconds = monotonic() - self._began_s

    def _guarded(self, work: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                work()
            except Exception as error:
                with self._lock:
                    self.outcome.failures.append(" ".join(repr(error).split())[:300])

    def _call(self) -> None:
        predict: Any = self._channel.unary_unary(PREDICT)
        raw = request().SerializeToString()
        while not self._stop.is_set():
            self._answered(PredictResponse.FromString(predict(raw, timeout=TIMEOUT_S)), "calls")

    def _converse(self) -> None:
        """One stream for as long as it lasts; an answer that is missing at its end is a failure."""
        sent = got = 0
        gate = threading.Semaphore(8)  # frames under way

        def frames() -> Iterator[bytes]:
            nonlocal sent
            while not self._stop.is_set():
                if gate.acquire(timeout=0.1):
                    sent += 1
                    yield StreamPredictRequest(frame_id=sent, request=request()).SerializeToString()

        converse: Any = self._channel.stream_stream(STREAM)
        for raw in converse(frames()):
            answer = StreamPredictResponse.FromString(raw)
            got += 1
            if answer.frame_id != got or not answer.HasField("response"):
                raise ValueError(f"frame {got} is answered by {answer}")
            self._answered(answer.response, "frames")
            gate.release()
        if got != sent:
            raise ValueError(f"{sent} frames sent, {got} answered")

    def _answered(self, response: PredictResponse, kind: str) -> None:
        if len(response.probabilities) != 1 or not 0 <= response.probabilities[0] <= 1:
            raise ValueError(f"no answer: {response}")
        with self._lock:
            setattr(self.outcome, kind, getattr(self.outcome, kind) + 1)
            self.outcome.versions.add(response.model_version)


def request() -> PredictRequest:
    features = {name: CORE_1_EXAMPLE[name] for name in CORE_1.names}
    return PredictRequest(named=NamedRows(rows=[NamedRow(features=features)]))


def swaps(count: int, front: str, progress: Callable[[int], None] = lambda done: None) -> Outcome:
    """A new version in, the old one out, again and again beside unary calls and open streams."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        models = Path(folder) / "models"
        put_version(models, 1)
        address = stack.enter_context(replica(free_port(), models, front))
        channel = stack.enter_context(grpc.insecure_channel(address))
        load: Any = channel.unary_unary(LOAD)
        predict: Any = channel.unary_unary(PREDICT)
        with Load(channel) as callers:
            for number in range(2, count + 2):
                put_version(models, number)
                shutil.rmtree(models / NAME / str(number - 1))
                load(RepositoryModelLoadRequest(model_name=NAME).SerializeToString(), timeout=TIMEOUT_S)
                raw = predict(request().SerializeToString(), timeout=TIMEOUT_S)
                if (served := PredictResponse.FromString(raw).model_version) != str(number):
                    callers.outcome.failures.append(f"version {served} answers after the swap to {number}")
                progress(number - 1)
    return callers.outcome


def restarts(count: int, front: str, progress: Callable[[int], None] = lambda done: None) -> Outcome:
    """Two servers behind one client, restarted in turn; the next one goes once the last one serves again."""
    ports = free_port(), free_port()
    options = [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
    ]
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    with ExitStack() as stack:
        running = [stack.enter_context(ExitStack()) for _ in ports]
        for port, life in zip(ports, running, strict=True):
            life.enter_context(replica(port, SHIPPED.parents[1], front))
        channel = stack.enter_context(grpc.insecure_channel(target, options=options))
        with Load(channel, unary=UNARY_CALLERS + STREAM_CALLERS, streams=0) as callers:
            for done in range(count):
                port, life = ports[done % 2], running[done % 2]
                life.close()  # SIGTERM, and its drain
                life.enter_context(replica(port, SHIPPED.parents[1], front))
                await_calls(f"127.0.0.1:{port}")
                progress(done + 1)
    return callers.outcome


def put_version(models: Path, number: int) -> None:
    """The shipped model under a number, put in its place in one step."""
    staged = models / f".{number}"
    shutil.copytree(SHIPPED, staged)
    manifest = json.loads((staged / "manifest.json").read_bytes())
    (staged / "manifest.json").write_bytes(msgspec.json.encode({**manifest, "version": str(number)}))
    (models / NAME).mkdir(exist_ok=True)
    staged.rename(models / NAME / str(number))


_metrics_ports: dict[str, int] = {}


@contextmanager
def replica(
    port: int, models: Path, front: str, *, metrics_port: int = 0, lame_duck_s: float = LAME_DUCK_S
) -> Iterator[str]:
    """A server on that port once it is ready; drained by SIGTERM at the end."""
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "cli.main", "serve", "--port", str(port), "--metrics-port", str(metrics_port)]
    command += ["--front", front, "--models-dir", str(models)]
    environ = {**os.environ, STATUS_FD: str(write_end), "VOLCAST_SERVER__WATCH_S": "0"}
    environ["VOLCAST_SERVER__LAME_DUCK_S"] = str(lame_duck_s)
    process = subprocess.Popen(command, env=environ, pass_fds=[write_end], stderr=subprocess.DEVNULL)
    os.close(write_end)
    try:
        with os.fdopen(read_end) as reports:
            first = reports.readline()
            if not first or json.loads(first)["event"] != "ready":
                raise RuntimeError("the inference server did not start; see: volcast serve")
            address = f"127.0.0.1:{port}"
            _metrics_ports[address] = json.loads(first)["metrics_port"]
            yield address
            process.send_signal(signal.SIGTERM)
            if (code := process.wait(TIMEOUT_S)) != 0:
                raise RuntimeError(f"the inference server ended with {code}")
    finally:
        process.kill()
        process.wait()


def await_calls(address: str) -> None:
    """Until the client has found the restarted server again, as a rollout waits for."""
    deadline_s = monotonic() + TIMEOUT_S
    while monotonic() < deadline_s:
        with urllib.request.urlopen(f"http://127.0.0.1:{_metrics_ports[address]}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        name = 'volcast_server_requests_total{code="OK",method="Predict"} '
        if any(float(line.removeprefix(name)) >= CALLS_OF_A_REPLICA for line in lines if line.startswith(name)):
            return
        sleep(0.05)
    raise RuntimeError(f"no calls came to {address} after its restart")


@click.command()
@click.option("--restarts", "restart_count", type=click.IntRange(0), default=20, show_default=True)
@click.option("--swaps", "swap_count", type=click.IntRange(0), default=100, show_default=True)
@click.option("--front", type=click.Choice(["native", "grpcio"]), default="native", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Figures on standard output.")
def main(restart_count: int, swap_count: int, front: str, as_json: bool) -> None:
    """Model swaps under load, and rolling restarts of two replicas behind a client that retries."""
    console = Console(stderr=True)
    how = f"{front} front; {UNARY_CALLERS} unary callers and {STREAM_CALLERS} streams beside the swaps, "
    how += f"{UNARY_CALLERS + STREAM_CALLERS} unary callers beside the restarts; no pause between calls"
    header(console, f"python -m benchmarks.rolling --restarts {restart_count} --swaps {swap_count}", how)
    figures: dict[str, Any] = {"front": front}
    for name, count, run in (("swaps", swap_count, swaps), ("restarts", restart_count, restarts)):
        if not count:
            continue
        with console.status(f"{name}: 0 of {count}") as status:

            def show(done: int, name: str = name, count: int = count, status: Any = status) -> None:
                status.update(f"{name}: {done} of {count}")

            outcome = run(count, front, show)
        figures[name] = {"count": count, **outcome.figures()}
        console.print(
            f"{count} {name}: {outcome.calls} calls, {outcome.frames} frames, {len(outcome.failures)} failed, "
            f"{outcome.seconds:.1f} s",
            highlight=False,
        )
        for failure in outcome.failures[:5]:
            console.print(f"  {failure}", highlight=False)
    if as_json:
        click.echo(json.dumps(figures))
    if any(one.get("failed") for one in figures.values() if isinstance(one, dict)):
        sys.exit(1)


if __name__ == "__main__":
    main()
