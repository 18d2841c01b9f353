"""A server's life: listen, load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import struct
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns, time
from typing import Any

from common.config import ServerConfig
from common.errors import BundleError
from common.lifecycle import hangup_pending
from common.metrics import serve_registry
from common.ports import BoundPort
from common.status import StatusPipe
from server.app import services
from server.app.fronts import Front, Parts, chosen_front, make_front
from server.app.ports import ServerPorts
from server.core.dataplane import DataPlane, ModelRun
from server.core.models import Repository
from server.core.requests import Selection
from server.core.shadow import ShadowScorer
from server.rpc import inference
from server.runtime import self_check
from server.runtime.batch_loop import BatchLoop
from server.runtime.heap import keep_freed_memory
from server.runtime.metrics import ServerMetrics
from server.runtime.reload import Reloader
from server.runtime.shadow_thread import ShadowThread
from server.runtime.state import ServerState
from server.security.listener import is_loopback, require_safe_listener
from server.security.tls import Certificates
from server.security.tokens import Gate, Tokens
from volcast.v1 import DataType, PackedRows, PredictRequest

STATS_EVERY_S = 1.0
Address = tuple[str, int]


async def run_server(
    config: ServerConfig, ports: ServerPorts, stop: threading.Event, status: StatusPipe, log: Any
) -> None:
    """Returns after an orderly end. Raises VolcastError if the port is taken or no model can be used."""
    server = Server(config, ports, status, log)
    stopping = asyncio.Event()
    _on_signals(asyncio.get_running_loop(), stop, stopping, server.reload)
    try:
        await server.start()
        asked = asyncio.ensure_future(stopping.wait())
        while not (stop.is_set() or asked.done()):
            await asyncio.wait([asked], timeout=STATS_EVERY_S)
            server.tick()
        asked.cancel()
        log.info("draining", drain_s=config.drain_s)
    finally:
        await server.drain()
    status.report("summary", **server.metrics.totals())
    log.info("stopped", **server.metrics.totals())


class Server:
    """All parts of one server process. Must be built on the running loop. Raises VolcastError."""

    def __init__(self, config: ServerConfig, ports: ServerPorts, status: StatusPipe, log: Any) -> None:
        self._config = config
        self._ports = ports
        self._status = status
        self._log = log
        self._certificates = Certificates.of(config, log)
        require_safe_listener("server", config.host, self._certificates is not None, config.allow_plaintext)
        self._tokens = Tokens(Path(config.tokens_file), log) if config.tokens_file else None
        self._state = ServerState(build=version("volcast"), front=chosen_front(config, log))
        self._repository = Repository(config.default_model, time)
        self._reloader = Reloader(self._repository, Path(config.models_dir), config.watch_s, log)
        self._shadows = ShadowScorer(self._repository)
        self._shadow_thread = ShadowThread(self._shadows, log)
        self.metrics = ServerMetrics(self._repository, self._state, self._shadows)
        plane = DataPlane(self._repository, config.max_rows, perf_counter_ns)
        delay_us = config.max_queue_delay_us
        batches = BatchLoop(plane, config.max_batch, config.max_queue, delay_us, self._ran)
        table, self._health = services.methods(
            self._repository, self._state, with_reflection=config.reflection, reload=self._reloader.request
        )
        gate = Gate(self._tokens, () if config.health_needs_token else Gate.OPEN)
        parts = Parts(table, plane, batches, self._state, self.metrics, gate, log)
        self._front: Front = make_front(config, parts, self._certificates, reuse_port=ports.own is not None)

    async def start(self) -> None:
        """Ready when it returns: listening, models loaded and warmed up, one call answered over the socket."""
        config, state = self._config, self._state
        # Served from the start, so that a scrape finds volcast_server_ready 0 while models load.
        serve_registry(self._ports.metrics, self.metrics.registry())
        metrics_port = self._ports.metrics.getsockname()[1]
        port, own = await (self._listen() if self._ports.own is None else self._join(self._ports.own))
        if self._certificates is None and not is_loopback(config.host):
            self._log.warning("plaintext", host=config.host, port=port, hint="keep the network private")
        await self._try_out(*own)
        self._reloader.start()
        self._shadow_thread.start()
        keep_freed_memory()
        # What start-up made stays for good: the collector need not look at it again, nor look so often.
        gc.freeze()
        gc.set_threshold(50_000, 50, 50)
        state.ready = True
        self._health.set_serving(True)
        about = {"host": config.host, "port": port, "metrics_port": metrics_port, "front": state.front}
        if self._ports.own is not None:
            about["own_port"] = own[1]
        self._log.info("ready", **about, uptime_s=round(state.uptime_s, 3))
        self._status.report("ready", **about)

    async def _listen(self) -> tuple[int, Address]:
        """The port, and where a call is sure to reach this process."""
        config = self._config
        await self._front.start(self._ports.calls)
        # On a thread, so that health is answered (not serving) while models load.
        await asyncio.to_thread(self._load)
        self._state.accepting = True
        port = self._ports.calls.port
        return port, (config.host, port)

    async def _join(self, own: BoundPort) -> tuple[int, Address]:
        """Listens beside others once it can answer: what they could answer must not be refused here."""
        await asyncio.to_thread(self._load)
        self._state.accepting = True
        await self._front.start(self._ports.calls, own)
        return self._ports.calls.port, (own.address, own.port)

    def tick(self) -> None:
        """Once a second."""
        self._status.report("stats", **self.metrics.totals())
        if self._tokens is not None and self._tokens.refresh():
            self._forget_callers()

    def reload(self) -> None:
        """Models, tokens and certificates, whatever their files look like."""
        self._reloader.request()
        if self._tokens is not None and self._tokens.refresh(force=True):
            self._forget_callers()
        if self._certificates is not None:
            self._certificates.refresh(force=True)

    async def drain(self) -> None:
        """Health turns, no call begins, those in hand finish within `drain_s`; then the models, then all else."""
        self._state.draining, self._state.ready = True, False
        self._health.close()
        self._ports.calls.close()  # the next server may have the port once the front listens no more
        await self._front.drain(self._config.drain_s)
        self._state.accepting = False
        if self._reloader.alive:
            await asyncio.to_thread(self._reloader.stop)
            await asyncio.to_thread(self._shadow_thread.stop)

    def _load(self) -> None:
        """Raises BundleError where the default model has no usable version."""
        snapshot = self._reloader.load().snapshot
        name, folder = self._config.default_model, self._config.models_dir
        if not any(owner == name for owner, _ in snapshot.models):
            why = "; ".join(failure.reason for failure in snapshot.failures) or "no bundle of that name"
            raise BundleError(f"no usable model {name!r} in {folder}: {why}")
        self._repository.resolve(Selection())

    async def _try_out(self, host: str, port: int) -> None:
        """Raises UnavailableError where the front does not answer over its socket."""
        if self._certificates is not None:
            await self_check.handshake(host, port)
            return
        message = _trial_request(self._repository)
        path = f"/{inference.SERVICE}/Predict"
        if self._tokens is None:
            await self_check.call(host, port, path, message)
        else:
            with self._tokens.temporary_header() as authorization:
                await self_check.call(host, port, path, message, authorization)
            self._forget_callers()
        self.metrics.forget_self_check()

    def _forget_callers(self) -> None:
        """What connections remember of tokens that were right."""
        self._front.forget_callers()

    def _ran(self, run: ModelRun) -> None:
        self.metrics.ran(run)
        if self._shadows.active:
            self._shadows.offer(run.model, run.matrix, run.probabilities)


def _trial_request(repository: Repository) -> bytes:
    """The self-test's row: the model may have no probability for another row."""
    model = repository.resolve(Selection())
    rows = PackedRows(
        schema_hash=model.schema.hash,
        data_type=DataType.DATA_TYPE_FLOAT64,
        row_count=1,
        values=struct.pack(f"<{len(model.example)}d", *model.example),
    )
    return PredictRequest(packed=rows).SerializeToString()


def _on_signals(
    loop: asyncio.AbstractEventLoop, stop: threading.Event, stopping: asyncio.Event, reload: Callable[[], None]
) -> None:
    def end(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)  # asked twice: no drain, no clean-up
        stop.set()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    loop.add_signal_handler(signal.SIGHUP, reload)
    if hangup_pending():
        reload()
