"""`volcast ingest`: the exchange's feed to ticks.raw and the archive."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import click
import msgspec
import uvloop

from common.cli import Duration, config_option, examples, json_option
from common.config import Config, IngestConfig, load_config
from common.lifecycle import stop_on_signals
from common.log import configure_logs, get_logger
from common.status import StatusPipe
from pipeline.archive import ArchivePolicy, ArchiveWriter
from pipeline.archive.paths import old_directory_hint
from pipeline.feed.venues import FEEDS, check_products, feed_of
from pipeline.stream.backlog import BacklogSink
from pipeline.stream.catch_up import catch_up
from pipeline.stream.ingest import Ingest
from pipeline.stream.kafka import Sink, connect, holds_records
from pipeline.stream.kafka_topics import ensure_topics
from pipeline.stream.metrics import serve_metrics
from pipeline.stream.publish import Publisher


@click.command(
    epilog=examples(
        "volcast ingest                                       # Coinbase, as config.yaml says",
        "VOLCAST_INGEST__PRODUCTS=BTCUSDT volcast ingest --venue binance",
        "volcast ingest --url ws://127.0.0.1:8765 --duration 1m",
        "volcast ingest --archive recordings/",
    )
)
@click.option("--venue", type=click.Choice(list(FEEDS)), default=None, help="The exchange (ingest.venue).")
@click.option("--url", default=None, help="The exchange's WebSocket (ingest.url).")
@click.option("--duration", type=Duration(), default=None, help="Stop after this long, such as 30s or 10m.")
@click.option(
    "--archive", type=click.Path(path_type=Path, file_okay=False), help="Where to archive (ingest.archive_dir)."
)
@click.option("--until-closed", is_flag=True, help="Stop when the exchange closes the feed normally.")
@json_option
@config_option
def ingest(
    venue: str | None,
    url: str | None,
    duration: float | None,
    archive: Path | None,
    until_closed: bool,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """The exchange's ticker feed to the topic ticks.raw, and as received to an NDJSON archive.

    A lost, late or unparsable message is counted and kept: gaps on ticks.raw, late ticks on ticks.late,
    everything else on ticks.dead.
    """
    config = load_config(config_file)
    configure_logs(config.log, "ingest")
    given = {"url": url, "venue": venue}
    settings = msgspec.structs.replace(config.ingest, **{key: value for key, value in given.items() if value})
    check_products(feed_of(settings.venue), settings.products)
    archive_dir = archive or (Path(settings.archive_dir) if settings.archive_dir else None)
    stats = uvloop.run(_ingest(config, settings, archive_dir, duration, until_closed))
    if as_json:
        click.echo(msgspec.json.encode(stats))


def _open_archive(directory: Path, settings: IngestConfig) -> ArchiveWriter:
    hint = old_directory_hint(directory)
    if hint:
        get_logger().warning("archive of an older version", hint=hint.removeprefix("; "))
    policy = ArchivePolicy(
        roll_bytes=settings.archive_roll_bytes,
        roll_s=settings.archive_roll_s,
        compress=settings.archive_compress,
        fsync=settings.archive_fsync,
        retention_s=settings.archive_retention_days * 86_400,
        max_bytes=settings.archive_max_bytes,
    )
    return ArchiveWriter(directory, settings.products, settings.venue, policy, max_future_s=settings.max_future_s)


def _open_sink(config: Config) -> Sink | BacklogSink:
    settings = config.ingest
    if not settings.backlog_dir:
        return Sink(config.kafka)
    return BacklogSink.open(config.kafka, Path(settings.backlog_dir), settings.backlog_max_bytes)


async def _ingest(
    config: Config, settings: IngestConfig, archive_dir: Path | None, duration_s: float | None, until_closed: bool
) -> dict[str, object]:
    stop = stop_on_signals()
    status = StatusPipe(stop)
    ensure_topics(connect(config.kafka), config.kafka)
    sink = _open_sink(config)
    resumes = holds_records(config.kafka, config.kafka.topics.raw)
    if resumes:
        products = map(feed_of(settings.venue).canonical, settings.products)
        catch_up(config.kafka, archive_dir, settings.venue, set(products), sink)
    publisher = Publisher(sink, config.kafka.topics, resumes=resumes)
    archive = _open_archive(archive_dir, settings) if archive_dir else None
    feed = Ingest(settings, publisher, archive, until_closed=until_closed)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + duration_s if duration_s else float("inf")
    with serve_metrics(settings.metrics_host, settings.metrics_port, feed.metrics, "ingest.metrics_port") as port:
        status.report("ready", metrics_port=port, url=feed.url, venue=settings.venue)
        receiving = asyncio.create_task(feed.run())
        next_report = loop.time() + 1
        try:
            # Signals set a threading event; a look every 50 ms is soon enough and costs nothing.
            while not receiving.done() and not stop.is_set() and loop.time() < deadline:
                await asyncio.wait({receiving}, timeout=0.05)
                sink.poll()
                if loop.time() >= next_report:
                    next_report += 1
                    feed.check_silence()
                    feed.flush()
                    status.report("stats", **feed.stats())
            if receiving.done():
                receiving.result()
        finally:
            receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(receiving, return_exceptions=True)
            if archive is not None:
                archive.close()
            try:
                sink.flush()
            finally:
                sink.close()
    stats = feed.stats()
    status.report("summary", **stats)
    get_logger().info("ingest ended", **stats)
    return stats
