"""Merges the metrics of all workers into those of a single server.

Counters and histograms are summed. The counts of ended workers stay in the sum: if a sum decreased, Prometheus would
assume a restart and count the rest again. Gauges are merged over the running workers, with a rule for each gauge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from prometheus_client.core import Metric

WORKER = "worker"
CUMULATIVE = ("counter", "histogram")
# If all workers should agree, the worst value counts. Every other gauge is the largest value.
_GAUGES: dict[str, Callable[[Iterable[float]], float]] = {
    "volcast_server_ready": min,
    "volcast_server_model_last_good_load_timestamp_seconds": min,
}


def merge(families: Iterable[Metric]) -> list[Metric]:
    """Returns a single family for each name, with a single sample for each set of labels."""
    first: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]] = {}
    for family in families:
        first.setdefault(family.name, family)
        samples = values.setdefault(family.name, {})
        for sample in family.samples:
            samples.setdefault((sample.name, tuple(sorted(sample.labels.items()))), []).append(sample.value)
    merged = []
    for name, family in first.items():
        rule = sum if family.type in CUMULATIVE else _GAUGES.get(name, max)
        total = Metric(name, family.documentation, family.type)
        for (sample_name, labels), measured in values[name].items():
            total.add_sample(sample_name, dict(labels), rule(measured))
        merged.append(total)
    return merged


def cumulative(families: Iterable[Metric]) -> list[Metric]:
    return [family for family in families if family.type in CUMULATIVE]


def label_process_metrics(families: Iterable[Metric], worker: str) -> list[Metric]:
    """Adds the label `worker` to the metrics of a process (CPU, memory), whose sums have no meaning."""
    labelled = []
    for family in families:
        if family.name.startswith("process_"):
            named = Metric(family.name, family.documentation, family.type)
            for sample in family.samples:
                named.add_sample(sample.name, {**sample.labels, WORKER: worker}, sample.value)
            family = named
        labelled.append(family)
    return labelled


class EndedWorkerCounts:
    """The counters and histograms of workers that have ended."""

    def __init__(self) -> None:
        self._families: list[Metric] = []

    def add(self, families: Iterable[Metric]) -> None:
        self._families = merge(chain(self._families, cumulative(families)))

    def merge_with(self, families: Iterable[Metric]) -> list[Metric]:
        return merge(chain(families, self._families))
