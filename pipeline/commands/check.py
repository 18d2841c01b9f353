"""`volcast check`: reads the topics and reports faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from confluent_kafka import Message, TopicPartition
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.cli import Duration, config_option, examples, json_option
from common.config import Config, KafkaConfig, load_config
from common.lifecycle import stop_on_signals
from common.log import configure_logs
from pipeline.stream.gaps import RETENTION, GapSpan, GapSpans, Place
from pipeline.stream.inspect import Inspection
from pipeline.stream.kafka import committed, connect, make_consumer, partitions_of, watermarks
from pipeline.stream.marker import from_metadata
from pipeline.stream.reading import IDLE_S, Reader, TopicPlace, bounds_of
from pipeline.stream.reconcile import Account, Progress, Reconciliation

CLIENT_NAME = "volcast-check"
MAX_SHOWN_GAPS = 50  # in the table; --json has more
WIDE = 150  # characters of a line if the output is not a terminal


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

    After the duration it reads on until everything that the worker has committed by then is reconciled: every record
    of ticks.raw has its feature row, late tick, dead letter or gap, and every warm row its prediction. Each gap is
    listed with its product, its reason and the ticks on both sides.

    Exit code 0: ticks and features came, every record is well-formed, the worker's group is not behind.
    Else 1.
    """
    config = load_config(config_file)
    configure_logs(config.log, "check")
    stop = stop_on_signals()
    connect(config.kafka)
    inspection = Inspection()
    bounds = _bounds(config.kafka)
    begin = {place: low if from_start else high for place, (low, high) in bounds.items()}
    books = _books(config, begin, bounds if from_start else {})
    show = _shows(config, inspection, books)
    reader = Reader(config.kafka, CLIENT_NAME, [TopicPartition(*place, offset) for place, offset in begin.items()])
    try:
        began_s = time.monotonic()
        while not stop.is_set() and time.monotonic() - began_s < duration:
            for message in reader.read(1000, 0.1):
                show(message)
        elapsed_s = time.monotonic() - began_s
        rates = {name: round(count / elapsed_s, 2) for name, count in sorted(inspection.counts.items())}
        lag, progress = _group_progress(config, books.first, inspection.spans)
        ends = bounds_of(config.kafka, _topics(config.kafka), CLIENT_NAME, open_too=True)
        # Rows of the records that the worker has committed are on the topics now.
        for batch in reader.read_until({place: high for place, (_, high) in ends.items() if place in begin}):
            for message in batch:
                show(message)
            if stop.is_set():
                progress = {}  # nothing can be reconciled
                break
    finally:
        reader.close()
    report = _report(inspection, elapsed_s, rates, lag, books.account(progress))
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        _show(report)
    return 0 if report["ok"] else 1


def _bounds(config: KafkaConfig) -> dict[TopicPlace, tuple[int, int]]:
    """First offset and end of each partition. ticks.raw is last, so the rows of its next records are all after it."""
    return bounds_of(config, _topics(config), CLIENT_NAME)


def _topics(config: KafkaConfig) -> tuple[str, ...]:
    topics = config.topics
    return topics.features, topics.predictions, topics.late, topics.dead, topics.raw


def _books(config: Config, begin: dict[TopicPlace, int], bounds: dict[TopicPlace, tuple[int, int]]) -> Reconciliation:
    """bounds: of topics that are read from the start, where retention may have left unequal stretches."""
    topics = config.kafka.topics
    first = {number: offset for (topic, number), offset in begin.items() if topic == topics.raw}
    shortened = {place for place, (low, _) in bounds.items() if low > 0}
    return Reconciliation(
        topics.raw,
        first,
        shortened_rows={number for topic, number in shortened if topic == topics.features},
        shortened_predictions={number for topic, number in shortened if topic == topics.predictions},
        repeats=config.worker.guarantee == "at_least_once",
    )


def _shows(config: Config, inspection: Inspection, books: Reconciliation) -> Callable[[Message], None]:
    """Shows a message to the inspection of its topic and enters it in the books."""
    topics = config.kafka.topics
    inspect: dict[str, Callable[[bytes], None]] = {
        topics.features: inspection.features,
        topics.predictions: inspection.predictions,
        topics.late: inspection.late_tick,
        topics.dead: inspection.dead_letter,
    }
    enter: dict[str, Callable[[bytes, int, int], None]] = {
        topics.raw: books.take_raw,
        topics.features: books.take_row,
        topics.predictions: books.take_prediction,
        topics.late: books.take_aside,
        topics.dead: books.take_aside,
    }

    def show(message: Message) -> None:
        topic, value = message.topic() or "", message.value() or b""
        partition, offset = message.partition() or 0, message.offset() or 0
        if topic == topics.raw:
            inspection.raw(value, partition, offset)
        else:
            inspect[topic](value)
        enter[topic](value, partition, offset)

    return show


def _group_progress(
    config: Config, first: Mapping[int, int], spans: GapSpans
) -> tuple[int | None, dict[int, Progress]]:
    """Records of ticks.raw that the worker's group has not committed, None if it never did; progress per partition.

    first: partition -> offset from which on records are read. Records from there on that Kafka deleted before the
    worker read them are added to `spans`.
    """
    group = make_consumer(config.kafka, config.worker.group_id)
    topic, timeout_s = config.kafka.topics.raw, config.kafka.timeout_s
    try:
        raw = [TopicPartition(topic, number) for number in partitions_of(group, topic, timeout_s)]
        known = [offset for offset in committed(group, raw, IDLE_S) if offset.offset >= 0]
        if not known:
            return None, {}
        lag, progress = 0, {}
        for each in known:
            number, offset = each.partition, each.offset
            low, high = watermarks(group, each, timeout_s)
            lag += max(0, high - max(offset, low))
            marker = from_metadata(each.metadata, offset)
            if offset < low:
                spans.lost(number, low, low - offset)
            elif marker is not None and marker.broken_at >= max(1, first.get(number, 0)):
                spans.lost(number, marker.broken_at, 0)
            if marker is not None:  # else the commit of another program
                progress[number] = Progress(offset, marker.owed_from)
        return lag, progress
    finally:
        group.close()


def _report(
    inspection: Inspection, elapsed_s: float, rates: dict[str, float], lag: int | None, account: Account
) -> dict[str, Any]:
    """rates: records per second, by topic role."""
    # A worker that restarts, or compiles its kernels, is behind for a moment.
    allowed = max(1000, int(2 * rates.get("raw", 0)))
    problems = [f"{count} x {fault}" for fault, count in sorted((inspection.faults + account.faults).items())]
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
        "gap_spans": inspection.spans.spans,
        "gap_spans_left_out": inspection.spans.unnamed,
        "late": dict(inspection.late),
        "dead": dict(inspection.dead),
        "not_warm": inspection.not_warm,
        "went_back": inspection.went_back,
        "missing": dict(inspection.missing),
        "worker_lag": lag,
        "reconciled": {
            "records": account.records,
            "rows": account.rows,
            "predictions": account.predictions,
            "set_aside": account.set_aside,
            "gaps": account.gaps,
            "owed": account.owed,
            "not_judged": account.not_judged,
            "faults": account.named,
        },
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
        shown = escape(", ".join(f"{kind} {count:,}" for kind, count in details.items() if count))
        table.add_row(name, f"{report['records'].get(name, 0):,}", f"{report['per_second'].get(name, 0):,}", shown)
    console = _console()
    console.print(table)
    _show_gaps(console, report["gap_spans"], report["gap_spans_left_out"])
    console.print(f"worker lag: {'no commit yet' if report['worker_lag'] is None else report['worker_lag']}")
    books = report["reconciled"]
    console.print(
        f"reconciled: {books['records']:,} committed records of ticks.raw = {books['rows']:,} feature rows + "
        f"{books['set_aside']:,} late or dead + {books['gaps']:,} gaps; {books['predictions']:,} predictions, "
        f"{books['owed']:,} owed"
    )
    if books["not_judged"]:
        console.print(
            f"not judged: {books['not_judged']:,} records of ticks.raw, since Kafka has deleted feature rows or "
            "predictions of their time"
        )
    for fault in books["faults"]:
        console.print(f"  {escape(fault)}")
    for problem in report["problems"]:
        console.print(f"[red]problem[/red]: {escape(problem)}")
    console.print("[green]as it should be[/green]" if report["ok"] else "[red]not as it should be[/red]")


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def _show_gaps(console: Console, spans: list[GapSpan], left_out: int) -> None:
    if not spans:
        return
    table = Table(title="Gaps of ticks.raw", title_justify="left", box=None, padding=(0, 2))
    for column in ("product", "reason", "missing", "revealed at", "after", "before", "record"):
        table.add_column(column, style="bold" if column == "product" else None, no_wrap=True)
    for span in spans[:MAX_SHOWN_GAPS]:
        everything = f"all of partition {span.partition}"
        table.add_row(
            escape(f"{span.venue}:{span.product_id}") if span.product_id else everything,
            escape(span.reason),
            f"{span.missed:,}" if span.missed else "unknown",
            _shown_time(span.event_time_ns) if span.event_time_ns else "",
            _shown_place(span.after),
            _shown_place(span.until) if span.reason != RETENTION else f"offset {span.offset}",
            escape(f"[{span.partition}]@{span.offset}") if span.reason != RETENTION else "none",
        )
    console.print(table)
    more = max(0, len(spans) - MAX_SHOWN_GAPS) + left_out
    if more:
        console.print(f"  and {more:,} more; --json lists {len(spans):,}")


def _shown_place(place: Place | None) -> str:
    return "" if place is None else f"number {place.sequence_num} at {_shown_time(place.event_time_ns)[11:]}"


def _shown_time(time_ns: int) -> str:
    moment = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ns // 10**6 % 1000:03d}"
