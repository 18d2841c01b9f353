"""`volcast broker`: the embedded Kafka-compatible broker, for development only."""

from __future__ import annotations

import time
from pathlib import Path

import click

from common.cli import config_option, examples
from common.config import load_config
from common.errors import UnavailableError
from common.lifecycle import stop_on_signals
from common.log import configure_logs, get_logger
from common.status import StatusPipe
from pipeline.stream.broker import EmbeddedBroker

# A killed supervisor ends no part in order: all of them notice within a second, and without a broker those
# that still hold messages would wait half a minute to deliver them.
ORPHAN_GRACE_S = 2.0

# It answers an empty fetch, and a group's first join, after half of these (docs/decisions/0001-embedded-broker.md).
HINT = "what connects to it wants kafka.fetch_wait_ms: 50 and kafka.session_timeout_ms: 2000"


@click.command(epilog=examples("volcast broker", "volcast broker --port 19092"))
@click.option("--host", default=None, help="Address to listen on (broker.host).")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Port to listen on (broker.port).")
@config_option
def broker(host: str | None, port: int | None, config_file: Path | None) -> None:
    """An embedded Kafka-compatible broker, in memory, for development only.

    It keeps nothing over a restart and gives no exactly-once; use Apache Kafka for anything else.
    """
    config = load_config(config_file)
    configure_logs(config.log, "broker")
    stop = stop_on_signals()
    status = StatusPipe(stop)
    with EmbeddedBroker(host or config.broker.host, port or config.broker.port) as running:
        address = f"{running.host}:{running.port}"
        get_logger().info("ready", bootstrap_servers=address, kept="in memory, until it stops", hint=HINT)
        status.report("ready", address=address)
        while not stop.wait(1.0):
            status.report("stats")
            if not running.alive:
                raise UnavailableError("broker: the broker process ended by itself")
        if status.orphaned:
            time.sleep(ORPHAN_GRACE_S)
