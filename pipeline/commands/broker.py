"""`volcast broker`: Apache Kafka for this machine."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import click

from common.cli import config_option, examples
from common.config import load_config
from common.errors import UnavailableError
from common.lifecycle import stop_on_signals
from common.log import configure_logs, get_logger
from common.status import StatusPipe
from pipeline.broker.jars import JarsUnavailableError, cache_dir, kafka_version, missing_jars, read_lock
from pipeline.broker.kafka import KafkaBroker
from pipeline.broker.light import LIMITS, LightBroker
from pipeline.broker.properties import Retention

# If the supervisor of a run is killed, all its processes notice within a second. Processes that still hold messages
# would wait half a minute for a broker that has ended.
ORPHAN_GRACE_S = 2.0


@click.command(epilog=examples("volcast broker", "volcast broker --port 19092 --data-dir /var/lib/volcast/kafka"))
@click.option("--host", default=None, help="Address to listen on (broker.host).")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Port to listen on (broker.port).")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder of the data, kept over a restart (broker.data_dir).",
)
@click.option("--allow-light", is_flag=True, help="If Kafka cannot be fetched, run the light broker for a first look.")
@config_option
def broker(
    host: str | None, port: int | None, data_dir: Path | None, allow_light: bool, config_file: Path | None
) -> None:
    """Apache Kafka for this machine, of one node, on the Java runtime of a Python wheel.

    The first start fetches Kafka's jars (43 MB) and verifies them. Data stays in a folder of its own; Kafka deletes it
    by size and time (broker.retention_bytes, broker.retention_s).
    """
    config = load_config(config_file)
    configure_logs(config.log, "broker")
    stop = stop_on_signals()
    status = StatusPipe(stop)
    settings = config.broker
    host, port, data_dir = host or settings.host, port or settings.port, data_dir or Path(settings.data_dir)
    with ExitStack() as cleanup:
        kafka = KafkaBroker(
            data_dir,
            host=host,
            port=port,
            retention=Retention(settings.retention_bytes, settings.retention_s),
            repository=settings.maven_repository,
            # `volcast run` starts the worker now: its imports take as long as Kafka's start.
            on_reserved=lambda address: status.report("stats", reserved=address),
        )
        running, why_light = _start(cleanup, kafka, allow_light)
        kept = "in memory, until it stops" if why_light else str(data_dir)
        get_logger().info("ready", bootstrap_servers=running.bootstrap_servers, kept=kept)
        status.report("ready", address=running.bootstrap_servers, light=why_light)
        while not stop.wait(1.0):
            status.report("stats")
            if not running.alive:
                raise UnavailableError(f"broker: ended by itself: {running.failure_line()}")
        if status.orphaned:
            time.sleep(ORPHAN_GRACE_S)


def _start(cleanup: ExitStack, kafka: KafkaBroker, allow_light: bool) -> tuple[KafkaBroker | LightBroker, str]:
    """The broker that runs, and why it is the light broker; empty for Kafka."""
    jars = read_lock()
    if missing_jars(cache_dir(), jars):
        get_logger().info("fetching Apache Kafka", version=kafka_version(jars), jars=len(jars), into=str(cache_dir()))
    try:
        return cleanup.enter_context(kafka), ""
    except JarsUnavailableError as error:
        if not allow_light:
            raise
        why = f"{error}; {LIMITS}"
        try:
            light = cleanup.enter_context(LightBroker(kafka.host, kafka.port))
        except UnavailableError:
            raise error from None
        get_logger().warning("light broker", reason=why)
        return light, why
