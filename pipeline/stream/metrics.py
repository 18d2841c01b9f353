"""Prometheus metrics of the pipeline's processes, read from their counts when Prometheus asks.

The counts are plain integers of the live path, so Prometheus adds no cost there.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from common.metrics import serve_registry
from common.ports import open_port

if TYPE_CHECKING:
    from collections.abc import Iterator


def labelled(name: str, help_text: str, label: str, counts: Counter[str]) -> CounterMetricFamily:
    """A counter with a single label, from a Counter by the values of that label."""
    family = CounterMetricFamily(name, help_text, labels=[label])
    for value, count in sorted(dict(counts).items()):  # a copy: another thread counts on
        family.add_metric([value], count)
    return family


class CallbackCollector(Collector):
    """Metrics that a function makes for each request of Prometheus."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


def serve_metrics(
    host: str, port: int, collect: Callable[[], Iterable[Metric]], option: str
) -> AbstractContextManager[int]:
    """Serves /metrics while the context lasts; gives the port.

    Raises UnavailableError if the port is taken, naming `option`.
    """
    registry = CollectorRegistry()
    registry.register(CallbackCollector(collect))
    return _serving(open_port(host, port, option), registry)


@contextmanager
def _serving(listener: socket.socket, registry: CollectorRegistry) -> Iterator[int]:
    with serve_registry(listener, registry) as server:
        yield server.port
