"""`volcast serve --workers N`: worker processes that share a port, and a supervisor that replaces dead workers.

The supervisor receives no calls and imports no gRPC, ONNX Runtime or uvloop, so no request can end it. If the
supervisor dies, the status pipes break and the workers end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from contextlib import suppress
from typing import Any

import msgspec

from common.config import LogConfig, ServerConfig
from common.errors import UnavailableError, VolcastError
from common.ports import BoundPort, open_port
from common.progress import LOOK_EVERY_S, Progress
from common.status import StatusPipe
from server.app.ports import METRICS_OPTION, PORT_OPTION
from server.workers.job import WorkerJob
from server.workers.metrics import LOOPBACK, WorkerMetrics, serve_metrics
from server.workers.process import TOTALS, WorkerProcess

STATS_EVERY_S = 1.0
# Beyond drain_s, for a load in progress. A worker that is not done by then, and does nothing for MAX_IDLE_S, is killed.
DRAIN_GRACE_S = 5.0
MAX_IDLE_S = 5.0
# If a worker dies this soon after its start, its replacement will probably die for the same reason.
MAX_QUICK_DEATH_S = 10.0
MAX_QUICK_DEATHS = 5
FIRST_PAUSE_S = 0.1


async def supervise(
    config: ServerConfig, log_config: LogConfig, stop: threading.Event, status: StatusPipe, log: Any
) -> None:
    """Returns after an orderly end. Raises VolcastError if the port is taken or workers keep dying."""
    with BoundPort(config.host, config.port, PORT_OPTION, shared=True) as shared:
        metrics = open_port(config.metrics_host, config.metrics_port, METRICS_OPTION)
        await Supervisor(config, log_config, shared, metrics, stop, status, log).run()


def pause_s(quick_deaths: int) -> float:
    """Returns the pause before the next start of a worker, after so many quick deaths in a row."""
    return 0.0 if quick_deaths < 2 else FIRST_PAUSE_S * 2.0 ** (quick_deaths - 2)


class Supervisor:
    """Must be built on the running loop."""

    def __init__(
        self,
        config: ServerConfig,
        log_config: LogConfig,
        shared: BoundPort,
        metrics_listener: socket.socket,
        stop: threading.Event,
        status: StatusPipe,
        log: Any,
    ) -> None:
        self._config = config
        self._shared = shared
        self._metrics_listener = metrics_listener
        self._stop = stop
        self._status = status
        self._log = log
        server = msgspec.structs.replace(config, port=shared.port, metrics_host=LOOPBACK, metrics_port=0)
        self._jobs = [WorkerJob(number, server, log_config) for number in range(config.workers)]
        self._workers: dict[int, WorkerProcess] = {}  # by number; a replacement overwrites the dead worker
        self._past = dict.fromkeys(TOTALS, 0)  # totals of ended workers
        self._metrics = WorkerMetrics()
        self._all_ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._in_lame_duck = False
        self._skip_lame_duck = asyncio.Event()

    async def run(self) -> None:
        self._on_signals()
        serve_metrics(self._metrics, self._metrics_listener)
        metrics_port = self._metrics_listener.getsockname()[1]
        keepers = [asyncio.ensure_future(self._keep_alive(job)) for job in self._jobs]
        watchers = [asyncio.ensure_future(self._wait_for_stop()), asyncio.ensure_future(self._report(metrics_port))]
        try:
            done, _ = await asyncio.wait([*keepers, *watchers], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._stopping.set()
            for task in watchers:
                task.cancel()
            # When no worker listens any more, the next server can bind the port while pending calls still finish.
            self._shared.close()
            await self._drain(keepers)
        self._status.report("summary", **self._totals())
        self._log.info("stopped", **self._totals())

    async def _wait_for_stop(self) -> None:
        await self._stopping.wait()

    async def _report(self, metrics_port: int) -> None:
        """Reports totals until the server stops or the reader of the status pipe has gone."""
        await self._all_ready.wait()
        report = {"host": self._config.host, "port": self._shared.port, "metrics_port": metrics_port}
        front = self._workers[0].ready or {}
        report |= {"front": front.get("front"), "workers": len(self._jobs)}
        self._log.info("all_ready", **report)
        self._status.report("ready", **report)
        while not self._stop.is_set():
            await asyncio.sleep(STATS_EVERY_S)
            self._status.report("stats", **self._totals())

    async def _keep_alive(self, job: WorkerJob) -> None:
        """Runs a worker and replaces it when it dies. Raises VolcastError if its replacements keep dying."""
        quick_deaths = 0
        while not self._stopping.is_set():
            worker = await self._run_worker(job)
            if self._stopping.is_set():
                return
            quick_deaths = quick_deaths + 1 if worker.lived_s < MAX_QUICK_DEATH_S else 0
            self._require_replaceable(worker, quick_deaths)
            self._metrics.restarts += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s(quick_deaths))

    async def _run_worker(self, job: WorkerJob) -> WorkerProcess:
        """Starts a worker and follows its reports; returns it when it has ended."""
        worker = self._workers[job.worker] = await WorkerProcess.start(job)
        self._metrics.add(worker)
        self._log.info("worker_started", worker=worker.number, pid=worker.pid)
        if self._stopping.is_set():
            worker.send(signal.SIGTERM)
        async for event in worker.reports():
            if event == "ready" and sum(worker.ready is not None for worker in self._workers.values()) == len(
                self._jobs
            ):
                self._all_ready.set()
        for key, count in worker.totals.items():
            self._past[key] += count
        return worker

    def _require_replaceable(self, worker: WorkerProcess, quick_deaths: int) -> None:
        """Logs the death of a worker. Raises UnavailableError if starting a replacement would be useless."""
        reason = worker.failure_line()
        lived_s = round(worker.lived_s, 1)
        self._log.error("worker_died", worker=worker.number, pid=worker.pid, lived_s=lived_s, reason=reason)
        if worker.reason and not self._all_ready.is_set():
            raise _error(worker)
        if quick_deaths >= MAX_QUICK_DEATHS:
            raise UnavailableError(
                f"worker {worker.number} died {quick_deaths} times in a row within {MAX_QUICK_DEATH_S:g} s "
                f"of its start, the last time: {reason}"
            )

    async def _drain(self, keepers: list[asyncio.Task[None]]) -> None:
        """Makes all workers leave and drain. A worker that makes no progress any more is killed."""
        config = self._config
        self._send(signal.SIGTERM)
        if config.lame_duck_s:
            self._log.info("leaving", lame_duck_s=config.lame_duck_s)
            ends = [asyncio.ensure_future(self._skip_lame_duck.wait()), asyncio.ensure_future(asyncio.wait(keepers))]
            await asyncio.wait(ends, timeout=config.lame_duck_s, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            self._in_lame_duck = False
        self._log.info("draining", drain_s=config.drain_s)
        _, late = await asyncio.wait(keepers, timeout=config.drain_s + DRAIN_GRACE_S)
        if late and await self._await_progress(late):
            hanging = [worker.number for worker in self._workers.values() if not worker.ended]
            self._log.error("workers_killed", workers=hanging)
            self._send(signal.SIGKILL)
        await asyncio.gather(*keepers, return_exceptions=True)

    async def _await_progress(self, late: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        """Waits while a worker makes progress; returns the tasks of workers that were idle for MAX_IDLE_S."""
        loop = asyncio.get_running_loop()
        progress = {worker: Progress(worker.pid, loop.time()) for worker in self._workers.values() if not worker.ended}
        while late:
            idle_s = [measured.idle_s(0, loop.time()) for worker, measured in progress.items() if not worker.ended]
            if idle_s and min(idle_s) > MAX_IDLE_S:
                break
            _, late = await asyncio.wait(late, timeout=LOOK_EVERY_S)
        return late

    def _send(self, number: int) -> None:
        for worker in self._workers.values():
            worker.send(number)

    def _totals(self) -> dict[str, int]:
        running = [worker.totals for worker in self._workers.values() if not worker.ended]
        return {key: past + sum(totals[key] for totals in running) for key, past in self._past.items()}

    def _on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        if self._stop.is_set():
            self._stopping.set()

    def _end(self, number: int) -> None:
        if self._in_lame_duck:
            self._in_lame_duck = False
            self._skip_lame_duck.set()
            self._send(signal.SIGTERM)  # the second SIGTERM of each worker: the worker skips the lame-duck time, too
            return
        if self._stopping.is_set():
            self._send(signal.SIGKILL)
            os._exit(128 + number)  # no drain, no clean-up
        self._in_lame_duck = self._config.lame_duck_s > 0
        self._stop.set()
        self._stopping.set()

    def _reload(self) -> None:
        for worker in self._workers.values():
            worker.reload()


def _error(worker: WorkerProcess) -> VolcastError:
    error = UnavailableError(worker.reason)
    error.exit_code = worker.exit_code
    return error
