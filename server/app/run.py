"""The life cycle of a server: load, warm up, listen, serve, leave, drain."""

from __future__ import annotations

import asyncio
import gc
import struct
import threading
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns, time
from typing import Any

from common.config import ServerConfig
from common.errors import BundleError
from common.lifecycle import StopSignals
from common.metrics import serve_registry
from common.ports import BoundPort
from common.status import StatusPipe
from server.app import services
from server.app.fronts import Front, chosen_front, make_front
from server.app.ports import LOOPBACK, PORT_OPTION, ServerPorts
from server.core.dataplane import DataPlane, ModelRun
from server.core.models import Repository
from server.core.requests import Selection
from server.core.shadow import ShadowScorer
from server.rpc import inference
from server.rpc.dependencies import FrontDependencies
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


async def run_server(
    config: ServerConfig, ports: ServerPorts, stop: threading.Event, status: StatusPipe, log: Any
) -> None:
    """Returns after an orderly end. Raises VolcastError if the port is taken or no model can be used."""
    server = Server(config, ports, status, log)
    signals = StopSignals(stop)
    signals.install(asyncio.get_running_loop(), server.reload)
    try:
        await server.start()
        never_served = stop.is_set()
        while not await signals.requested(STATS_EVERY_S):
            server.tick()
        if config.lame_duck_s and not never_served:
            log.info("leaving", lame_duck_s=config.lame_duck_s)
            server.leave()
            await signals.lame_duck(config.lame_duck_s)
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
        needs = FrontDependencies(table, plane, batches, self._state, self.metrics, gate, log)
        self._front: Front = make_front(config, needs, self._certificates, reuse_port=ports.own is not None)

    async def start(self) -> None:
        """Loads and warms up the models, makes a call to itself, then opens the port. On return the server is ready."""
        state = self._state
        # Metrics are served from the start, so that a scrape reads volcast_server_ready 0 while models load.
        serve_registry(self._ports.metrics, self.metrics.registry())
        metrics_port = self._ports.metrics.getsockname()[1]
        await asyncio.to_thread(self._load)
        state.accepting = True
        await self._check_front()
        self._reloader.start()
        self._shadow_thread.start()
        keep_freed_memory()
        # Objects created during start-up are never freed. So the garbage collector skips them and runs less often.
        gc.freeze()
        gc.set_threshold(50_000, 50, 50)
        state.ready = True
        self._health.set_serving(True)
        report = {**await self._listen(), "metrics_port": metrics_port, "front": state.front}
        self._log.info("ready", **report, uptime_s=round(state.uptime_s, 3))
        self._status.report("ready", **report)

    async def _listen(self) -> dict[str, Any]:
        """Opens the port; returns the fields of the address.

        own_port: a port of this process only, if several processes share `port`.
        """
        config = self._config
        calls, own = self._ports.calls, self._ports.own
        await self._front.start(*(port for port in (calls, own) if port is not None))
        where = {"host": config.host, "port": calls.port}
        if own is not None:
            where["own_port"] = own.port
        if self._certificates is None and not is_loopback(config.host):
            self._log.warning("plaintext", host=config.host, port=calls.port, hint="keep the network private")
        return where

    def tick(self) -> None:
        """Reports totals and checks the tokens file. Called every STATS_EVERY_S."""
        self._status.report("stats", **self.metrics.totals())
        if self._tokens is not None and self._tokens.refresh():
            self._forget_callers()

    def reload(self) -> None:
        """Reads models, tokens and certificates again, even if their files seem unchanged."""
        self._reloader.request()
        if self._tokens is not None and self._tokens.refresh(force=True):
            self._forget_callers()
        if self._certificates is not None:
            self._certificates.refresh(force=True)

    def leave(self) -> None:
        """Health reports NOT_SERVING; calls and connections are accepted as before."""
        self._state.ready = False
        self._health.set_serving(False)

    async def drain(self) -> None:
        """Health reports NOT_SERVING, new calls are refused, and pending calls finish within `drain_s`."""
        self._state.draining, self._state.ready = True, False
        self._health.close()
        self._ports.calls.close()  # another server can bind the port as soon as the front stops listening
        await self._front.drain(self._config.drain_s)
        self._state.accepting = False
        if self._reloader.alive:
            await asyncio.to_thread(self._reloader.stop)
            await asyncio.to_thread(self._shadow_thread.stop)

    def _load(self) -> None:
        """Raises BundleError if the default model has no usable version."""
        snapshot = self._reloader.load().snapshot
        name, folder = self._config.default_model, self._config.models_dir
        if not any(owner == name for owner, _ in snapshot.models):
            reason = "; ".join(failure.reason for failure in snapshot.failures) or "no bundle of that name"
            raise BundleError(f"no usable model {name!r} in {folder}: {reason}")
        self._repository.resolve(Selection())

    async def _check_front(self) -> None:
        """Makes a call over a temporary port. Raises UnavailableError if the front does not respond."""
        with BoundPort(LOOPBACK, 0, PORT_OPTION, claimed=False) as port:
            await self._front.start_trial(port)
            try:
                await self._call_itself(port.address, port.port)
            finally:
                await self._front.end_trial()

    async def _call_itself(self, host: str, port: int) -> None:
        if self._certificates is not None:
            await self_check.handshake(host, port)
            return
        message = _self_check_request(self._repository)
        path = f"/{inference.SERVICE}/Predict"
        if self._tokens is None:
            await self_check.call(host, port, path, message)
        else:
            with self._tokens.temporary_header() as authorization:
                await self_check.call(host, port, path, message, authorization)
            self._forget_callers()
        self.metrics.forget_self_check()

    def _forget_callers(self) -> None:
        """Drops the cached results of token checks, which connections keep."""
        self._front.forget_callers()

    def _ran(self, run: ModelRun) -> None:
        self.metrics.ran(run)
        if self._shadows.active:
            self._shadows.offer(run)


def _self_check_request(repository: Repository) -> bytes:
    """Returns a request with the row of the self-test: for other rows the model may have no probability.

    A forecast model must also answer a spike size and a level.
    """
    model = repository.resolve(Selection())
    rows = PackedRows(
        schema_hash=model.schema.hash,
        data_type=DataType.DATA_TYPE_FLOAT64,
        row_count=1,
        values=struct.pack(f"<{len(model.example)}d", *model.example),
    )
    if model.forecast is None:
        return PredictRequest(packed=rows).SerializeToString()
    return PredictRequest(packed=rows, spike_bps=model.forecast.spike_bps, quantiles=[0.5]).SerializeToString()
