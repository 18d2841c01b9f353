"""/metrics of a server of many workers: each is asked when Prometheus asks, and their answers are merged."""

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
from server.workers.merge import Kept, cumulative, of_worker
from server.workers.process import WorkerProcess

LOOPBACK = "127.0.0.1"
# A worker that takes longer hangs; the scrape itself must stay below Prometheus' 10 s.
SCRAPE_TIMEOUT_S = 1.0
SUPERVISOR = "supervisor"
STATES = ("ready", "starting", "silent")


class _Source:
    """One worker, and the last that was heard of it."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self.families: list[Metric] = []

    def refresh(self) -> str:
        """Asks it; returns its state."""
        ready = self.worker.ready
        if ready is None:
            return "starting"
        try:
            families = text_string_to_metric_families(_scrape(ready["metrics_port"]))
        except (OSError, HTTPException):
            self.families = [*cumulative(self.families), _not_ready()]
            return "silent"
        self.families = of_worker(families, str(self.worker.number))
        return "ready"


class WorkerMetrics(Collector):
    """Collects on Prometheus' threads; workers are told of on the supervisor's."""

    def __init__(self) -> None:
        self.restarts = 0
        self._sources: list[_Source] = []
        self._kept = Kept()
        self._lock = threading.Lock()
        self._process = ProcessCollector(registry=None)

    def add(self, worker: WorkerProcess) -> None:
        self._sources.append(_Source(worker))

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            restarted = self.restarts  # before a look at the workers: its successor is seen, or neither
            states = dict.fromkeys(STATES, 0)
            living: list[Metric] = []
            for source in self._sources.copy():
                if source.worker.ended:
                    self._kept.add(source.families)
                    self._sources.remove(source)
                    continue
                states[source.refresh()] += 1
                living += source.families
            families = self._kept.with_living(
                [
                    *(living or [_not_ready()]),
                    *of_worker(self._process.collect(), SUPERVISOR),
                    *LostLogLines().collect(),
                ]
            )
        yield from families
        text = "Processes that share the port; silent: does not tell its metrics."
        workers = GaugeMetricFamily("volcast_server_workers", text, labels=["state"])
        for state, count in states.items():
            workers.add_metric([state], float(count))
        yield workers
        restarts = "Workers that were started again after one had died."
        yield CounterMetricFamily("volcast_server_worker_restarts", restarts, value=float(restarted))


def serve_metrics(metrics: WorkerMetrics, listener: socket.socket) -> None:
    """On a thread of its own."""
    registry = CollectorRegistry()
    registry.register(metrics)
    MetricsServer(listener, registry)


def _not_ready() -> Metric:
    text = "Whether Predict is answered: warmed up and not draining."
    return GaugeMetricFamily("volcast_server_ready", text, value=0.0)


def _scrape(port: int) -> str:
    """Raises OSError or HTTPException where nobody answers."""
    connection = HTTPConnection(LOOPBACK, port, timeout=SCRAPE_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()
