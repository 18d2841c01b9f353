"""`volcast check`: consume the topics and say whether they are as they should be."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from confluent_kafka import OFFSET_END, Consumer, TopicPartition
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.cli import Duration, config_option, examples, json_option
from common.config import Config, KafkaConfig, load_config
from common.lifecycle import stop_on_signals
from common.log import configure_logs
from pipeline.stream.inspect import Inspection
from pipeline.stream.kafka import committed, connect, consume_batch, make_consumer, partitions_of, watermarks


@click.command(
    epilog=examples(
        "volcast check                     # 60 s of what comes from now on",
        "volcast check --duration 10 --json",
        "volcast check --from-start        # everything the topics hold",
    )
)
@click.option("--duration", type=Duration(), default="60", show_default=True, help="How long to look, s.")
@click.option("--from-start", is_flag=True, help="Begin with the oldest record instead of the next.")
@json_option
@config_option
def check(duration: float, from_start: bool, as_json: bool, config_file: Path | None) -> int:
    """Consumes all topics and validates them: rates, gaps, lateness, lag, schema.

    Exit code 0: ticks and features came, every record is well-formed, the worker's group is not behind.
    Else 1.
    """
    config = load_config(config_file)
    configure_logs(config.log, "check")
    stop = stop_on_signals()
    connect(config.kafka)
    inspection = Inspection()
    consumer = make_consumer(config.kafka, "volcast-check")
    try:
        consumer.assign(_positions(consumer, config.kafka, from_start))
        look = _looks(config, inspection)
        began_s = time.monotonic()
        while not stop.is_set() and time.monotonic() - began_s < duration:
            for message in consume_batch(consumer, 1000, 0.1):
                look[message.topic() or ""](message.value() or b"")
        elapsed_s = time.monotonic() - began_s
        lag = _group_lag(config)
    finally:
        consumer.close()
    report = _report(inspection, elapsed_s, lag)
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        _show(report)
    return 0 if report["ok"] else 1


def _looks(config: Config, inspection: Inspection) -> dict[str, Callable[[bytes], None]]:
    topics = config.kafka.topics
    return {
        topics.raw: inspection.raw,
        topics.features: inspection.features,
        topics.predictions: inspection.predictions,
        topics.late: inspection.late_tick,
        topics.dead: inspection.dead_letter,
    }


def _positions(consumer: Consumer, config: KafkaConfig, from_start: bool) -> list[TopicPartition]:
    topics = config.topics
    positions = []
    for name in (topics.raw, topics.features, topics.predictions, topics.late, topics.dead):
        for number in partitions_of(consumer, name, config.timeout_s):
            low, _ = watermarks(consumer, TopicPartition(name, number), config.timeout_s)
            positions.append(TopicPartition(name, number, low if from_start else OFFSET_END))
    return positions


def _group_lag(config: Config) -> int | None:
    """Records of ticks.raw that the worker's group has not committed; None where it never did."""
    group = make_consumer(config.kafka, config.worker.group_id)
    topic, timeout_s = config.kafka.topics.raw, config.kafka.timeout_s
    try:
        raw = [TopicPartition(topic, number) for number in partitions_of(group, topic, timeout_s)]
        known = [offset for offset in committed(group, raw, timeout_s) if offset.offset >= 0]
        if not known:
            return None
        highs = [watermarks(group, offset, timeout_s)[1] for offset in known]
        return sum(high - offset.offset for high, offset in zip(highs, known, strict=True))
    finally:
        group.close()


def _report(inspection: Inspection, elapsed_s: float, lag: int | None) -> dict[str, Any]:
    rates = {name: round(count / elapsed_s, 2) for name, count in sorted(inspection.counts.items())}
    # A worker commits each second: up to two seconds of records may be on their way.
    allowed = max(1000, int(2 * rates.get("raw", 0)))
    problems = [f"{count} x {fault}" for fault, count in sorted(inspection.faults.items())]
    if not inspection.counts["raw"]:
        problems.append("no tick came on ticks.raw; is `volcast ingest` running?")
    elif not inspection.counts["features"]:
        problems.append("no feature row came on ticks.features; is `volcast worker` running?")
    if lag is not None and lag > allowed:
        problems.append(f"the worker is {lag} records behind, expected at most {allowed}")
    return {
        "ok": not problems,
        "problems": problems,
        "duration_s": round(elapsed_s, 2),
        "records": dict(inspection.counts),
        "per_second": rates,
        "gaps": dict(inspection.gaps),
        "late": dict(inspection.late),
        "dead": dict(inspection.dead),
        "not_warm": inspection.not_warm,
        "went_back": inspection.went_back,
        "missing": dict(inspection.missing),
        "worker_lag": lag,
        "newest_event_ns": inspection.newest_event_ns,
    }


def _show(report: dict[str, Any]) -> None:
    table = Table(title=f"Topics over {report['duration_s']:g} s", title_justify="left", box=None, padding=(0, 2))
    table.add_column("topic", style="bold")
    table.add_column("records", justify="right")
    table.add_column("per second", justify="right")
    table.add_column("of which", style="dim")
    kinds = {"raw": "gaps", "late": "late", "dead": "dead", "predictions": "missing"}
    for name in ("raw", "features", "predictions", "late", "dead"):
        rows = {"not warm": report["not_warm"], "back in time": report["went_back"]}
        details = report[kinds[name]] if name in kinds else rows
        said = ", ".join(f"{kind} {count:,}" for kind, count in details.items() if count)
        table.add_row(name, f"{report['records'].get(name, 0):,}", f"{report['per_second'].get(name, 0):,}", said)
    console = Console()
    console.print(table)
    console.print(f"worker lag: {'no commit yet' if report['worker_lag'] is None else report['worker_lag']}")
    for problem in report["problems"]:
        console.print(f"[red]problem[/red]: {escape(problem)}")
    console.print("[green]as it should be[/green]" if report["ok"] else "[red]not as it should be[/red]")
