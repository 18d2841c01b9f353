"""/metrics of a server with many workers: each scrape by Prometheus scrapes all workers and merges their metrics."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from common.metrics import LostLogLines, MetricsServer
from server.workers.merge import EndedWorkerCounts, cumulative, label_process_metrics
from server.workers.process import WorkerProcess

LOOPBACK = "127.0.0.1"
# A worker that takes longer counts as hung; the whole scrape must stay below Prometheus' limit of 10 s.
SCRAPE_TIMEOUT_S = 1.0
SUPERVISOR = "supervisor"
STATES = ("ready", "starting", "silent")


class _Source:
    """A worker and its metrics from the last successful scrape."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self.families: list[Metric] = []

    def refresh(self) -> str:
        """Scrapes the worker; returns its state."""
        ready = self.worker.ready
        if ready is None:
            return "starting"
        try:
            families = text_string_to_metric_families(_scrape(ready["metrics_port"]))
        except (OSError, HTTPException):
            self.families = [*cumulative(self.families), _not_ready()]
            return "silent"
        self.families = label_process_metrics(families, str(self.worker.number))
        return "ready"


class WorkerMetrics(Collector):
    """The metrics of all workers. `add` runs on the supervisor's thread, `collect` on those of the metrics server."""

    def __init__(self) -> None:
        self.restarts = 0
        self._sources: list[_Source] = []
        self._ended = EndedWorkerCounts()
        self._lock = threading.Lock()
        self._process = ProcessCollector(registry=None)

    def add(self, worker: WorkerProcess) -> None:
        self._sources.append(_Source(worker))

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            restarted = self.restarts  # read before the workers, so that a counted restart has its new worker below
            states = dict.fromkeys(STATES, 0)
            running: list[Metric] = []
            for source in self._sources.copy():
                if source.worker.ended:
                    self._ended.add(source.families)
                    self._sources.remove(source)
                    continue
                states[source.refresh()] += 1
                running += source.families
            families = self._ended.merge_with(
                [
                    *(running or [_not_ready()]),
                    *label_process_metrics(self._process.collect(), SUPERVISOR),
                    *LostLogLines().collect(),
                ]
            )
        yield from families
        text = "Processes that share the port; silent: its metrics cannot be scraped."
        workers = GaugeMetricFamily("volcast_server_workers", text, labels=["state"])
        for state, count in states.items():
            workers.add_metric([state], float(count))
        yield workers
        restarts = "Workers that were started to replace a dead worker."
        yield CounterMetricFamily("volcast_server_worker_restarts", restarts, value=float(restarted))


def serve_metrics(metrics: WorkerMetrics, listener: socket.socket) -> None:
    """Starts the metrics server on its own thread."""
    registry = CollectorRegistry()
    registry.register(metrics)
    MetricsServer(listener, registry)


def _not_ready() -> Metric:
    text = "Whether Predict is answered: warmed up and not draining."
    return GaugeMetricFamily("volcast_server_ready", text, value=0.0)


def _scrape(port: int) -> str:
    """Raises OSError or HTTPException if the worker does not respond."""
    connection = HTTPConnection(LOOPBACK, port, timeout=SCRAPE_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()
