"""Metrics of many workers as those of one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric

from server.workers.merge import EndedWorkerCounts, cumulative, label_process_metrics, merge


def worker(calls: int, ready: int = 1, seconds: float = 0.5, version: str = "1") -> list[Metric]:
    registry = CollectorRegistry()
    Counter("volcast_server_requests", "Calls.", ["code"], registry=registry).labels("OK").inc(calls)
    Histogram("volcast_server_compute_seconds", "Time.", buckets=(0.1, 1.0), registry=registry).observe(seconds)
    Gauge("volcast_server_ready", "Ready.", registry=registry).set(ready)
    Gauge("volcast_server_models", "Held.", ["version"], registry=registry).labels(version).set(1)
    Gauge("process_open_fds", "Files.", registry=registry).set(calls)
    Counter("process_cpu_seconds", "Time.", registry=registry).inc(calls)
    return list(registry.collect())


def samples(families: list[Metric]) -> dict[str, float]:
    values = {}
    for family in families:
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return values


def test_counts_are_added_up() -> None:
    merged = samples(merge([*worker(3), *worker(4)]))
    assert merged["volcast_server_requests_total{code=OK}"] == 7


def test_histograms_are_added_up_bucket_by_bucket() -> None:
    merged = samples(merge([*worker(1, seconds=0.05), *worker(1, seconds=0.5)]))
    buckets = [merged[f"volcast_server_compute_seconds_bucket{{le={bound}}}"] for bound in ("0.1", "1.0", "+Inf")]
    assert buckets == [1, 2, 2]
    assert merged["volcast_server_compute_seconds_sum"] == 0.55


def test_a_series_of_a_single_worker_is_kept() -> None:
    merged = samples(merge([*worker(1, version="1"), *worker(1, version="2")]))
    assert merged["volcast_server_models{version=1}"] == merged["volcast_server_models{version=2}"] == 1


def test_the_server_is_ready_when_all_workers_are() -> None:
    assert samples(merge([*worker(1, ready=1), *worker(1, ready=0)]))["volcast_server_ready"] == 0
    assert samples(merge([*worker(1, ready=1), *worker(1, ready=1)]))["volcast_server_ready"] == 1


def test_a_model_that_all_hold_is_held_once() -> None:
    assert samples(merge([*worker(1), *worker(1)]))["volcast_server_models{version=1}"] == 1


def test_each_family_appears_once() -> None:
    names = [family.name for family in merge([*worker(1), *worker(2), *worker(3)])]
    assert len(names) == len(set(names)) == 6


def test_metrics_of_processes_are_labelled() -> None:
    merged = samples(merge([*label_process_metrics(worker(3), "0"), *label_process_metrics(worker(4), "1")]))
    assert merged["process_open_fds{worker=0}"] == 3
    assert merged["process_open_fds{worker=1}"] == 4
    assert merged["volcast_server_requests_total{code=OK}"] == 7


def test_what_the_dead_had_counted_stays_in_every_later_sum() -> None:
    ended = EndedWorkerCounts()
    ended.add(label_process_metrics(worker(10), "0"))
    ended.add(label_process_metrics(worker(5), "0"))
    merged = samples(ended.merge_with(label_process_metrics(worker(1), "0")))
    assert merged["volcast_server_requests_total{code=OK}"] == 16
    assert merged["volcast_server_compute_seconds_count"] == 3
    assert merged["process_cpu_seconds_total{worker=0}"] == 16


def test_what_the_dead_had_measured_does_not() -> None:
    ended = EndedWorkerCounts()
    ended.add(worker(10, ready=0, version="9"))
    merged = samples(ended.merge_with(worker(1)))
    assert merged["volcast_server_ready"] == 1
    assert "volcast_server_models{version=9}" not in merged


def test_counts_stay_if_all_workers_have_ended() -> None:
    ended = EndedWorkerCounts()
    ended.add(worker(10))
    assert samples(ended.merge_with([]))["volcast_server_requests_total{code=OK}"] == 10


def test_only_counters_and_histograms_are_cumulative() -> None:
    assert {family.type for family in cumulative(worker(1))} == {"counter", "histogram"}
