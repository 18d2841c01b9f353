"""`volcast replay`: recordings onto ticks.raw."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from common.cli import Duration, Speed, config_option, examples, json_option
from common.config import KafkaConfig, load_config
from common.errors import InputError
from common.lifecycle import stop_on_signals
from common.log import configure_logs, get_logger
from common.status import StatusPipe
from pipeline.archive import describe, expand_paths, latest_archive, read_archive
from pipeline.archive.options import flat_options, no_tick, read_options, show_formats
from pipeline.exchange.pacer import Pacer
from pipeline.feed.advice import GapWatch
from pipeline.feed.protocol import Result
from pipeline.feed.rfc3339 import format_ns
from pipeline.records import DeadLetter, Gap, Tick
from pipeline.stream.kafka import Sink, connect, holds_records
from pipeline.stream.kafka_topics import ensure_topics
from pipeline.stream.missing import missing_records, read_present
from pipeline.stream.publish import Publisher

BATCH = 500


@click.command(
    epilog=examples(
        "volcast replay                                    # the most recent archive, in real time",
        "volcast replay recordings/ --speed max",
        "volcast replay BTC-USD_20260405T223513Z.ndjson.gz --duration 5 --speed 10",
        "volcast replay --missing                          # what ticks.raw lacks of the whole archive",
    )
)
@click.argument("files", nargs=-1, metavar="[FILE|DIR|GLOB]...")
@click.option(
    "--duration", type=Duration("min"), default=None, metavar="MINUTES", help="Of the recording, from its start."
)
@click.option("--speed", type=Speed(), default="1", show_default=True, help="1 is real time, N, or max.")
@click.option(
    "--missing",
    "only_missing",
    is_flag=True,
    help="Publish only the ticks that ticks.raw lacks, at full speed, as they were received. Stop ingest first.",
)
@flat_options
@json_option
@config_option
def replay(
    files: tuple[str, ...],
    duration: float | None,
    speed: float,
    only_missing: bool,
    columns_text: str,
    product: str,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """Recordings onto ticks.raw, as if they were received now; late and dead records to their topics.

    Without a file: the most recent one of ingest.archive_dir; with --missing all of them. A recording is an archive
    of messages, or has one row per tick: NDJSON, CSV or Parquet, with columns that are guessed from common names.
    """
    config = load_config(config_file)
    configure_logs(config.log, "replay")
    stop = stop_on_signals()
    status = StatusPipe(stop)
    paths = _paths(files, config.ingest.archive_dir, only_missing)
    options = read_options(columns_text, product, config.ingest.gap_after_s)
    show_formats(describe(paths, options))
    first_dead: list[DeadLetter] = []
    gaps = GapWatch()
    records = _noting_dead(gaps.watch(read_archive(paths, options)), first_dead)
    ensure_topics(connect(config.kafka), config.kafka)
    sink = Sink(config.kafka)
    batches = _missing(config.kafka, records, stop) if only_missing else paced(records, speed, duration, stop)
    resumes = not only_missing and holds_records(config.kafka, config.kafka.topics.raw)
    publisher = Publisher(sink, config.kafka.topics, resumes=resumes)
    status.report("ready", files=[str(path) for path in paths])
    began_s = time.monotonic()
    _publish(batches, publisher, sink)
    result = {
        **publisher.counts.as_json(),
        "published": publisher.published,
        "holes": publisher.holes,
        "advice": gaps.advice(),
        "duration_s": round(time.monotonic() - began_s, 3),
    }
    status.report("summary", **result)
    if not publisher.counts.ticks and not stop.is_set() and not only_missing:
        kept = f"; {publisher.counts.dead.total():,} dead records are on {config.kafka.topics.dead}"
        first = first_dead[0] if first_dead else None
        raise InputError(no_tick(paths, first, options, kept if publisher.counts.dead else ""))
    if as_json:
        click.echo(msgspec.json.encode(result))
    else:
        counts = ", ".join(f"{count:,} {name}" for name, count in publisher.counts.totals().items())
        click.echo(f"replayed {counts} in {result['duration_s']} s")
        if result["advice"]:
            click.echo(f"volcast: {result['advice']}", err=True)


def _missing(config: KafkaConfig, records: Iterator[Result], stop: threading.Event) -> Iterator[list[Result]]:
    """Those of the records that ticks.raw lacks."""
    present = read_present(config)
    get_logger().info("topic read", topic=config.topics.raw, ticks=present.ticks)
    if present.since_ns:
        since = format_ns(present.since_ns)
        get_logger().warning("kafka deleted older records; only ticks since then are filled", since=since)
    return _batches(missing_records(records, present), stop)


def _publish(batches: Iterator[list[Result]], publisher: Publisher, sink: Sink) -> None:
    """Publishes all batches and waits until they are delivered; shows the progress on a terminal."""
    console = Console(stderr=True)
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip
    with progress:
        task = progress.add_task("replaying")
        for batch in batches:
            publisher.publish(batch)
            sink.poll()
            totals = publisher.counts.totals()
            progress.update(task, description=", ".join(f"{name} {count:,}" for name, count in totals.items()))
    sink.flush()


def _paths(files: tuple[str, ...], archive_dir: str, only_missing: bool) -> list[Path]:
    named = [path for text in files for path in expand_paths(text)]
    if named:
        return named
    latest = latest_archive(Path(archive_dir))
    return expand_paths(archive_dir) if only_missing else [latest]


def _noting_dead(records: Iterator[Result], first: list[DeadLetter]) -> Iterator[Result]:
    """The records; the first dead letter among them is added to `first`."""
    for record in records:
        if not first and isinstance(record, DeadLetter):
            first.append(record)
        yield record


def _batches(records: Iterator[Tick | Gap], stop: threading.Event) -> Iterator[list[Result]]:
    while batch := list[Result](itertools.islice(records, BATCH)):
        if stop.is_set():
            return
        yield batch


def paced(
    records: Iterator[Result], speed: float, duration_s: float | None, stop: threading.Event
) -> Iterator[list[Result]]:
    """Records when they are due, in batches that are due together, stamped as received now."""
    pacer = Pacer(speed)
    ends_ns: int | None = None
    batch: list[Result] = []
    for record in records:
        if isinstance(record, Tick | Gap):
            if ends_ns is None and duration_s is not None:
                ends_ns = record.event_time_ns + round(duration_s * 1e9)
            if ends_ns is not None and record.event_time_ns > ends_ns:
                break
            if isinstance(record, Gap) and record.reason != "sequence":
                pacer.reset()  # a hole in the recording, or a clock that was set, is not waited for
            delay_s = pacer.delay_s(record.event_time_ns, time.monotonic())
            if delay_s > 0:
                yield batch
                batch = []
                if stop.wait(delay_s):
                    break
            record = msgspec.structs.replace(record, ingest_time_ns=time.time_ns())
        batch.append(record)
        if len(batch) >= BATCH:
            yield batch
            batch = []
        if stop.is_set():
            break
    yield batch
