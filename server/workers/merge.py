"""Metrics of many workers as those of one server.

What counts (counters, histograms) is added up, and what workers that have ended had counted stays in the
sum: Prometheus would take a sum that falls for a restart, and count all the rest again. What is measured
(gauges) is taken from the workers that live, by a rule for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from prometheus_client.core import Metric

WORKER = "worker"
CUMULATIVE = ("counter", "histogram")
# The worst of what all should agree on; any other gauge is 1 where one of them says so, or the largest.
_GAUGES: dict[str, Callable[[Iterable[float]], float]] = {
    "volcast_server_ready": min,
    "volcast_server_model_last_good_load_timestamp_seconds": min,
}


def merge(families: Iterable[Metric]) -> list[Metric]:
    """One family for each name, one sample for each set of labels."""
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


def of_worker(families: Iterable[Metric], worker: str) -> list[Metric]:
    """The same, with a label on what belongs to a process and means nothing in a sum."""
    labelled = []
    for family in families:
        if family.name.startswith("process_"):
            named = Metric(family.name, family.documentation, family.type)
            for sample in family.samples:
                named.add_sample(sample.name, {**sample.labels, WORKER: worker}, sample.value)
            family = named
        labelled.append(family)
    return labelled


class Kept:
    """What workers that have ended had counted."""

    def __init__(self) -> None:
        self._families: list[Metric] = []

    def add(self, families: Iterable[Metric]) -> None:
        self._families = merge(chain(self._families, cumulative(families)))

    def with_living(self, families: Iterable[Metric]) -> list[Metric]:
        return merge(chain(families, self._families))
