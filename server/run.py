"""A server's life: listen, load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import threading
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from common.config import ServerConfig
from common.errors import BundleError
from common.status import StatusPipe
from server import service, trial
from server.batching import BatchLoop
from server.core.dataplane import DataPlane
from server.core.models import Repository
from server.core.requests import Selection
from server.grpc import inference
from server.grpc.methods import Methods
from server.grpc.transport import GrpcioFront
from server.http2.connection import Limits
from server.metrics import ServerMetrics
from server.native.front import NativeFront
from server.state import ServerState
from volcast.v1 import DataType, PackedRows, PredictRequest

STATS_EVERY_S = 1.0


Front = NativeFront | GrpcioFront


async def run_server(config: ServerConfig, stop: threading.Event, status: StatusPipe, log: Any) -> None:
    """Returns after an orderly end. Raises VolcastError where the port is taken or no model can be used."""
    stopping = asyncio.Event()
    _end_on_signals(asyncio.get_running_loop(), stop, stopping)
    state = ServerState(build=version("volcast"), front=chosen_front(config, log))
    repository = Repository(config.default_model)
    metrics = ServerMetrics(repository, state)
    plane = DataPlane(repository, config.max_rows, perf_counter_ns)
    batches = BatchLoop(plane, config.max_batch, config.max_queue, config.max_queue_delay_us, metrics.ran)
    table, health = service.methods(repository, state, with_reflection=True)
    front = _make_front(config, table, plane, batches, state, metrics, log)
    port = await front.start(config.host, config.port)
    if not _is_loopback(config.host):
        log.warning("plaintext", host=config.host, port=port, hint="calls are not encrypted; keep the network private")
    try:
        # On a thread, so that health is answered (not serving) while models load.
        await asyncio.to_thread(load_models, repository, Path(config.models_dir), log)
        state.accepting = True
        await trial.call(config.host, port, f"/{inference.SERVICE}/Predict", _trial_request(repository))
        metrics.forget_trial()
        metrics_port = await asyncio.to_thread(_serve_metrics, metrics, config)
        state.ready = True
        health.set_serving(True)
        about = {"host": config.host, "port": port, "metrics_port": metrics_port, "front": state.front}
        log.info("ready", **about, uptime_s=round(state.uptime_s, 3))
        status.report("ready", **about)
        asked = asyncio.ensure_future(stopping.wait())
        while not (stop.is_set() or asked.done()):
            await asyncio.wait([asked], timeout=STATS_EVERY_S)
            status.report("stats", **metrics.totals())
        asked.cancel()
        log.info("draining", drain_s=config.drain_s)
    finally:
        state.draining, state.ready = True, False
        health.close()
        await front.drain(config.drain_s)
        state.accepting = False
    status.report("summary", **metrics.totals())
    log.info("stopped", **metrics.totals())


def chosen_front(config: ServerConfig, log: Any) -> str:
    """The front that can serve what was asked, and is the faster one where both can."""
    return "native" if config.front == "auto" else config.front


def _make_front(
    config: ServerConfig,
    table: Methods,
    plane: DataPlane,
    batches: BatchLoop,
    state: ServerState,
    metrics: ServerMetrics,
    log: Any,
) -> Front:
    if state.front == "native":
        limits = Limits(max_message=config.max_message_bytes)
        return NativeFront(table, plane, batches, state, metrics, log, limits, config.spin_us)
    options = [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # Off, or a second server on the same port would silently take half of the calls.
        ("grpc.so_reuseport", 0),
    ]
    return GrpcioFront(table, plane, batches, state, metrics, log, options)


def _trial_request(repository: Repository) -> bytes:
    model = repository.resolve(Selection())
    rows = PackedRows(
        schema_hash=model.schema.hash,
        data_type=DataType.DATA_TYPE_FLOAT64,
        row_count=1,
        values=bytes(8 * len(model.schema)),
    )
    return PredictRequest(packed=rows).SerializeToString()


def load_models(repository: Repository, folder: Path, log: Any) -> None:
    """Loads what can be loaded; raises BundleError where the default model has no usable version."""
    held = repository.load(folder)
    if not any(name == repository.default_model for name, _ in held.models):
        why = "; ".join(one.reason for one in held.failures) or "no bundle of that name"
        raise BundleError(f"no usable model {repository.default_model!r} in {folder}: {why}")
    for failure in held.failures:
        log.error("model_refused", model=failure.name, version=failure.version, reason=failure.reason)
    for model in held.models.values():
        log.info("model_loaded", model=model.name, version=model.version, labels=held.labels(model))
    repository.resolve(Selection())


def _serve_metrics(metrics: ServerMetrics, config: ServerConfig) -> int:
    from prometheus_client import start_http_server

    server, _ = start_http_server(config.metrics_port, config.metrics_host, metrics.registry())
    return server.server_port


def _end_on_signals(loop: asyncio.AbstractEventLoop, stop: threading.Event, stopping: asyncio.Event) -> None:
    def on_signal(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)  # asked twice: no drain, no clean-up
        stop.set()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
