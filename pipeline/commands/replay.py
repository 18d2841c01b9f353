"""`volcast replay`: recordings onto ticks.raw."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from common.cli import Duration, Speed, config_option, examples, json_option
from common.config import load_config
from common.errors import InputError
from common.lifecycle import stop_on_signals
from common.log import configure_logs
from common.status import StatusPipe
from pipeline.archive import expand_paths, latest_archive, read_archive
from pipeline.exchange.pacer import Pacer
from pipeline.records import DeadLetter, Gap, LateTick, Tick
from pipeline.stream.kafka import Sink, connect, holds_records
from pipeline.stream.kafka_topics import ensure_topics
from pipeline.stream.publish import Publisher

Result = Tick | Gap | LateTick | DeadLetter
BATCH = 500


@click.command(
    epilog=examples(
        "volcast replay                                    # the most recent archive, in real time",
        "volcast replay recordings/ --speed max",
        "volcast replay BTC-USD_20260405T223513Z.ndjson.gz --duration 5 --speed 10",
    )
)
@click.argument("files", nargs=-1, metavar="[FILE|DIR|GLOB]...")
@click.option(
    "--duration", type=Duration("min"), default=None, metavar="MINUTES", help="Of the recording, from its start."
)
@click.option("--speed", type=Speed(), default="1", show_default=True, help="1 is real time, N, or max.")
@json_option
@config_option
def replay(
    files: tuple[str, ...], duration: float | None, speed: float, as_json: bool, config_file: Path | None
) -> None:
    """Recordings onto ticks.raw, as if they were received now; late and dead records to their topics.

    Without a file: the most recent one of ingest.archive_dir.
    """
    config = load_config(config_file)
    configure_logs(config.log, "replay")
    stop = stop_on_signals()
    status = StatusPipe(stop)
    named = [path for text in files for path in expand_paths(text)]
    paths = named or [latest_archive(Path(config.ingest.archive_dir))]
    records = read_archive(paths)
    ensure_topics(connect(config.kafka), config.kafka)
    sink = Sink(config.kafka)
    publisher = Publisher(sink, config.kafka.topics, resumes=holds_records(config.kafka, config.kafka.topics.raw))
    status.report("ready", files=[str(path) for path in paths])
    began_s = time.monotonic()
    console = Console(stderr=True)
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip
    with progress:
        task = progress.add_task("replaying")
        for batch in paced(records, speed, duration, stop):
            publisher.publish(batch)
            sink.poll()
            totals = publisher.counts.totals()
            progress.update(task, description=", ".join(f"{name} {count:,}" for name, count in totals.items()))
    sink.flush()
    result = {
        **publisher.counts.as_json(),
        "published": publisher.published,
        "holes": publisher.holes,
        "duration_s": round(time.monotonic() - began_s, 3),
    }
    status.report("summary", **result)
    if not publisher.counts.ticks and not stop.is_set():
        kept = f"; {publisher.counts.dead.total():,} dead records are on {config.kafka.topics.dead}"
        raise InputError(f"no tick in {', '.join(map(str, paths))}{kept if publisher.counts.dead else ''}")
    if as_json:
        click.echo(msgspec.json.encode(result))
    else:
        totals = publisher.counts.totals()
        said = ", ".join(f"{count:,} {name}" for name, count in totals.items())
        click.echo(f"replayed {said} in {result['duration_s']} s")


def paced(
    records: Iterator[Result], speed: float, duration_s: float | None, stop: threading.Event
) -> Iterator[list[Result]]:
    """Records when they are due, in batches of what is due together, stamped as received now."""
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
                pacer.reset()  # what was not recorded is not waited for, nor a clock that was set anew
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
