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
from server.core.dataplane import DataPlane
from server.core.models import Repository
from server.core.requests import Selection
from server.grpc.transport import GrpcServer
from server.metrics import ServerMetrics
from server.state import ServerState

STATS_EVERY_S = 1.0


async def run_server(config: ServerConfig, stop: threading.Event, status: StatusPipe, log: Any) -> None:
    """Returns after an orderly end. Raises VolcastError where the port is taken or no model can be used."""
    stopping = asyncio.Event()
    _end_on_signals(asyncio.get_running_loop(), stop, stopping)
    state = ServerState(build=version("volcast"), front="grpcio")
    repository = Repository(config.default_model)
    metrics = ServerMetrics(repository, state)
    plane = DataPlane(repository, config.max_rows, perf_counter_ns)
    server = GrpcServer(plane, state, metrics, log, config.max_message_bytes)
    port = await server.start(config.host, config.port)
    if not _is_loopback(config.host):
        log.warning("plaintext", host=config.host, port=port, hint="calls are not encrypted; keep the network private")
    try:
        # On a thread, so that health is answered (not serving) while models load.
        await asyncio.to_thread(load_models, repository, Path(config.models_dir), log)
        metrics_port = await asyncio.to_thread(_serve_metrics, metrics, config)
        server.set_serving()
        log.info("ready", host=config.host, port=port, metrics_port=metrics_port, uptime_s=round(state.uptime_s, 3))
        status.report("ready", host=config.host, port=port, metrics_port=metrics_port)
        asked = asyncio.ensure_future(stopping.wait())
        while not (stop.is_set() or asked.done()):
            await asyncio.wait([asked], timeout=STATS_EVERY_S)
            status.report("stats", **metrics.totals())
        asked.cancel()
        log.info("draining", drain_s=config.drain_s)
    finally:
        await server.drain(config.drain_s)
    status.report("summary", **metrics.totals())
    log.info("stopped", **metrics.totals())


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
