"""`volcast ingest` in messages per second: simulated exchange, WebSocket, decoder, archive, Kafka, all of it real.

The Kafka is that of the configuration (`kafka.bootstrap_servers`); records go to topics of the run's own. Exchange and
ingest are processes. CPU times tell which of them bounds the rate.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO, Any

from confluent_kafka import TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks.machine import header
from common.config import KafkaConfig, load_config
from common.status import STATUS_FD
from pipeline.stream.kafka import make_consumer

SENT_TICKS = 200_000


def run(console: Console) -> dict[str, Any]:
    """Prints the table and returns its figures."""
    header(console, "volcast bench ingest", f"{SENT_TICKS:,} simulated ticks at full speed, to Kafka and an archive")
    kafka, topics = load_config().kafka, _topics()
    with tempfile.TemporaryDirectory() as folder:
        exchange_options = ["--simulate", "--speed", "max", "--max-ticks", str(SENT_TICKS), "--port", "0"]
        with _part(["exchange", *exchange_options], {}) as exchange:
            ready = json.loads(exchange.readline())
            environ = {**topics, "VOLCAST_INGEST__MAX_FUTURE_S": "0", "VOLCAST_INGEST__METRICS_PORT": "0"}
            began_s, cpu_s = time.perf_counter(), os.times().children_user + os.times().children_system
            with _part(["ingest", "--url", ready["url"], "--until-closed", "--archive", folder], environ) as ingest:
                assert json.loads(ingest.readline())["event"] == "ready"
                began_s = time.perf_counter()
                summary = _summary(ingest)
                took_s = time.perf_counter() - began_s
            cpu_s = os.times().children_user + os.times().children_system - cpu_s
    figures = {
        "messages_per_s": summary["messages"] / took_s,
        "ingest_cpu_us": cpu_s / summary["messages"] * 1e6,
        "lost": SENT_TICKS - _records(kafka, topics["VOLCAST_KAFKA__TOPICS__RAW"]),
    }
    table = Table("exchange to Kafka", "value")
    table.add_row("messages/s", f"{figures['messages_per_s']:,.0f}")
    table.add_row("CPU of ingest, its start included, µs a message", f"{figures['ingest_cpu_us']:.1f}")
    table.add_row("ticks that are not on the topic", f"{figures['lost']:,}")
    console.print(table)
    return figures


def _topics() -> dict[str, str]:
    names = ("raw", "features", "predictions", "late", "dead")
    return {f"VOLCAST_KAFKA__TOPICS__{name.upper()}": f"bench.{os.getpid()}.{name}" for name in names}


@contextlib.contextmanager
def _part(arguments: list[str], environ: dict[str, str]) -> Iterator[IO[str]]:
    """A volcast process; yields its status reports."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", *arguments],
        pass_fds=[writer],
        env={**os.environ, **environ, STATUS_FD: str(writer)},
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as status:
            yield status
    finally:
        process.terminate()
        process.wait(60)


def _summary(status: IO[str]) -> dict[str, Any]:
    for line in status:
        report: dict[str, Any] = json.loads(line)
        if report["event"] == "summary":
            return report
    raise RuntimeError("ingest ended without a summary")


def _records(kafka: KafkaConfig, topic: str) -> int:
    consumer = make_consumer(kafka, "volcast-bench")
    try:
        partitions = consumer.list_topics(topic, kafka.timeout_s).topics[topic].partitions
        ends = [consumer.get_watermark_offsets(TopicPartition(topic, one), kafka.timeout_s) for one in partitions]
        return sum(end[1] - end[0] for end in ends if end is not None)
    finally:
        consumer.close()
