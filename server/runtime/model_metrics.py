"""Prometheus metrics of the loaded models and their shadows."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from server.core.models import Repository
from server.core.shadow import Agreement, ShadowScorer
from server.core.snapshot import ModelSnapshot

VERSION = ("model", "version")
# Metric, its help text, and the field of Agreement that it shows.
_SHADOW_COUNTERS = (
    ("volcast_server_shadow_rows", "Rows that a shadow version scored after the answer.", "rows"),
    ("volcast_server_shadow_agreed_rows", "Rows for which the shadow decided like the answer.", "agreed_rows"),
    ("volcast_server_shadow_difference", "Sum of absolute differences of the probabilities.", "difference_sum"),
    ("volcast_server_shadow_dropped_rows", "Rows that were dropped since the queue was full.", "dropped_rows"),
    ("volcast_server_shadow_failed_rows", "Rows that the shadow could not score.", "failed_rows"),
)


def model_metrics(repository: Repository, shadows: ShadowScorer | None) -> Iterator[Metric]:
    snapshot = repository.snapshot
    models = GaugeMetricFamily("volcast_server_models", "1 for each loaded version.", labels=VERSION)
    for name, version in snapshot.models:
        models.add_metric([name, version], 1.0)
    yield models
    yield from _labels(snapshot)
    refused = '1 for each version that is refused, or kept although its folder is gone; version "": the labels.'
    failing = GaugeMetricFamily("volcast_server_model_failing", refused, labels=VERSION)
    for name, version in {(failure.name, failure.version) for failure in snapshot.failures}:
        failing.add_metric([name, version], 1.0)
    yield failing
    failures = "Bundles and labels files that could not be loaded."
    yield CounterMetricFamily("volcast_server_model_load_failures", failures, value=float(repository.load_failures))
    swaps = "Times that the loaded models or their labels changed."
    yield CounterMetricFamily("volcast_server_model_swaps", swaps, value=float(repository.swaps))
    loaded = "Time of the last load of the models folder without a failure; 0: never."
    yield GaugeMetricFamily(
        "volcast_server_model_last_good_load_timestamp_seconds", loaded, value=repository.last_good_load_s
    )
    if shadows is not None:
        yield from _shadows(shadows.agreements.copy())


def _labels(snapshot: ModelSnapshot) -> Iterator[Metric]:
    info = GaugeMetricFamily("volcast_server_model_info", "1 for each label of a version.", labels=(*VERSION, "label"))
    for model in snapshot.models.values():
        for label in snapshot.labels(model):
            info.add_metric([model.name, model.version, label], 1.0)
    yield info
    share = GaugeMetricFamily(
        "volcast_server_model_canary_share", "Share of the routing keys that get the canary.", labels=VERSION
    )
    for name, canary in snapshot.canaries.items():
        share.add_metric([name, canary.model.version], canary.split.share)
    yield share


def _shadows(agreements: dict[tuple[str, str], Agreement]) -> Iterator[Metric]:
    for name, text, field in _SHADOW_COUNTERS:
        family = CounterMetricFamily(name, text, labels=VERSION)
        for key, agreement in agreements.items():
            family.add_metric(list(key), float(getattr(agreement, field)))
        yield family
    worst = GaugeMetricFamily("volcast_server_shadow_difference_max", "The largest difference.", labels=VERSION)
    for key, agreement in agreements.items():
        worst.add_metric(list(key), agreement.difference_max)
    yield worst
