"""`volcast check`: consume the topics and say whether they are as they should be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import msgspec
from confluent_kafka import Message
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.cli import Duration, config_option, examples, json_option
from common.config import Config, load_config
from common.lifecycle import stop_on_signals
from common.log import configure_logs
from pipeline.stream.audit import TopicReader
from pipeline.stream.gaps import RETENTION, GapSpan, Place
from pipeline.stream.inspect import Inspection
from pipeline.stream.kafka import connect
from pipeline.stream.reconcile import Account, Reconciliation

MAX_SHOWN_GAPS = 50  # in the table; --json has more
WIDE = 150  # characters of a line where there is no terminal


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
    """Consumes all topics and validates them: rates, gaps, lateness, lag, schema; every offset of ticks.raw accounted
    for. Each gap is listed with its product, its reason and the ticks on both sides.

    Exit code 0: ticks and features came, every record is well-formed, the worker's group is not behind.
    Else 1.
    """
    config = load_config(config_file)
    configure_logs(config.log, "check")
    hurry = threading.Event()
    stop = stop_on_signals(hurry)
    connect(config.kafka)
    reader = TopicReader(config.kafka, from_start=from_start)
    try:
        look = _Look(config, reader.first)
        began_s = time.monotonic()
        reader.read_for(duration, look.show, stop)
        elapsed_s = time.monotonic() - began_s
        standing = reader.standing(config.worker.group_id)
        open_records = reader.read_to_end(look.show, hurry)
        account = look.books.account({} if open_records else standing.progress, reader.judged_from())
    finally:
        reader.close()
    for number, (offset, count) in standing.lost.items():
        look.inspection.spans.lost(number, offset, count)
    report = _report(look.inspection, elapsed_s, standing.lag, account, open_records)
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        _show(report)
    return 0 if report["ok"] else 1


class _Look:
    """Shows each message to the inspection of its topic and enters it in the books."""

    def __init__(self, config: Config, first: Mapping[int, int]) -> None:
        """first: as in Reconciliation."""
        self._topics = topics = config.kafka.topics
        self.inspection = inspection = Inspection()
        repeats = config.worker.guarantee == "at_least_once"
        self.books = books = Reconciliation(topics.raw, first, repeats=repeats)
        self._inspect: dict[str, Callable[[bytes], None]] = {
            topics.features: inspection.features,
            topics.predictions: inspection.predictions,
            topics.late: inspection.late_tick,
            topics.dead: inspection.dead_letter,
        }
        self._enter: dict[str, Callable[[bytes, int, int], None]] = {
            topics.raw: books.take_raw,
            topics.features: books.take_row,
            topics.predictions: books.take_prediction,
            topics.late: books.take_aside,
            topics.dead: books.take_aside,
        }

    def show(self, message: Message) -> None:
        topic, value = message.topic() or "", message.value() or b""
        partition, offset = message.partition() or 0, message.offset() or 0
        if topic == self._topics.raw:
            self.inspection.raw(value, partition, offset)
        else:
            self._inspect[topic](value)
        self._enter[topic](value, partition, offset)


def _report(
    inspection: Inspection,
    elapsed_s: float,
    lag: int | None,
    account: Account,
    open_records: Mapping[tuple[str, int], int] = MappingProxyType({}),
) -> dict[str, Any]:
    """open_records: as TopicReader.read_to_end returns them."""
    rates = {name: round(count / elapsed_s, 2) for name, count in sorted(inspection.counts.items())}
    # Up to two seconds of records may be on their way.
    allowed = max(1000, int(2 * rates.get("raw", 0)))
    problems = [f"{count} x {fault}" for fault, count in sorted((inspection.faults + account.faults).items())]
    if not inspection.counts["raw"]:
        problems.append("no tick came on ticks.raw; is `volcast ingest` running?")
    elif not inspection.counts["features"]:
        problems.append("no feature row came on ticks.features; is `volcast worker` running?")
    if lag is not None and lag > allowed:
        problems.append(f"the worker is {lag} records behind, expected at most {allowed}")
    problems += [
        f"{topic}[{number}]: {count} records cannot be read (an open transaction, or a signal); nothing is reconciled"
        for (topic, number), count in open_records.items()
    ]
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
        counts = escape(", ".join(f"{kind} {count:,}" for kind, count in details.items() if count))
        table.add_row(name, f"{report['records'].get(name, 0):,}", f"{report['per_second'].get(name, 0):,}", counts)
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
