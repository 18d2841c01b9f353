"""A day of event time through `volcast run`, sped up: memory of each process and latency, by hour of event time.

    python -m benchmarks.day --hours 24 --minutes 8

Memory is resident, read at the end of each hour. Latency is measured by a consumer that reads committed predictions:
from the receipt of a tick by ingest until its prediction can be read. The run has failed if, over the second half,
the memory of a process or the latency grows.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from confluent_kafka import KafkaException
from rich.console import Console
from rich.table import Table

from benchmarks.machine import header
from benchmarks.processes import free_port
from common.config import KafkaConfig
from common.errors import UnavailableError
from pipeline.stream.kafka import consume_batch, make_consumer
from volcast.v1 import Prediction

HOUR_NS = 3600 * 10**9
PORTS = ("BROKER", "EXCHANGE", "SERVER", "GATEWAY")
PARTS = ("kafka", "ingest", "worker", "serve", "gateway", "exchange")
# Of the last quarter against the quarter before it.
MAX_MEMORY_GROWTH = 1.1
MAX_LATENCY_GROWTH = 1.5


@dataclass
class Hour:
    """One hour of event time."""

    latencies_ms: list[float] = field(default_factory=list)
    resident_mb: dict[str, float] = field(default_factory=dict)

    def latency_ms(self, quantile: float) -> float:
        return float(np.quantile(self.latencies_ms, quantile)) if self.latencies_ms else float("nan")


def resident_mb(supervisor: int) -> dict[str, float]:
    """Resident memory of the processes of a run, by command."""
    sizes = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            pages = int((entry / "statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            continue
        name = "kafka" if b"kafka.Kafka" in words else words[3].decode() if len(words) > 3 else ""
        if name in PARTS and (parent == supervisor or (name == "kafka" and _parent(parent) == supervisor)):
            sizes[name] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return sizes


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Reader(threading.Thread):
    """Reads committed predictions as they appear and puts their latencies into hours of event time."""

    def __init__(self, config: KafkaConfig, hours: list[Hour]) -> None:
        super().__init__(daemon=True)
        self._config = config
        self._hours = hours
        self.hour = 0
        self.count = 0
        self.closing = threading.Event()

    def run(self) -> None:
        # Before the broker runs and after it has ended, its absence is no news.
        consumer = make_consumer(self._config, "benchmark-day", error_cb=lambda error: None)
        consumer.subscribe([self._config.topics.predictions])
        first_ns = None
        while not self.closing.is_set():
            try:
                batch = consume_batch(consumer, 1000, 0.2)
            except (UnavailableError, KafkaException):  # before the worker has created the topic
                continue
            now_ns = time.time_ns()
            for message in batch:
                prediction = Prediction.FromString(message.value() or b"")
                first_ns = prediction.event_time_ns if first_ns is None else first_ns
                self.hour = min((prediction.event_time_ns - first_ns) // HOUR_NS, len(self._hours) - 1)
                # latency_ns ends when the worker has the prediction; the record's age since then is the rest.
                written_ms = message.timestamp()[1]
                age_ms = max(now_ns / 1e6 - written_ms, 0.0)
                self._hours[self.hour].latencies_ms.append(prediction.latency_ns / 1e6 + age_ms)
                self.count += 1
        consumer.close()


def run(hours: int, minutes: float, folder: Path) -> tuple[list[Hour], str]:
    """The figures of each hour, and the summary of the run."""
    ports = {name: free_port() for name in PORTS}
    environ = {f"VOLCAST_{name}__PORT": str(port) for name, port in ports.items()}
    environ |= {f"VOLCAST_{name}__METRICS_PORT": "0" for name in ("SERVER", "WORKER", "INGEST")}
    options = ["--duration", f"{minutes * 60:g}s", "--speed", f"{hours * 60 / minutes:g}", "--run-dir", str(folder)]
    figures = [Hour() for _ in range(hours)]
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "run", *options, "--json"],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=(folder / "err").open("wb"),
    )
    reader = Reader(KafkaConfig(bootstrap_servers=f"127.0.0.1:{ports['BROKER']}"), figures)
    reader.start()
    try:
        while process.poll() is None:
            time.sleep(minutes * 60 / hours / 4)
            figures[reader.hour].resident_mb |= resident_mb(process.pid)
    finally:
        process.terminate()
        process.wait()
        reader.closing.set()
        reader.join()
    if process.returncode:
        raise UnavailableError(f"volcast run: {(folder / 'err').read_text().strip().splitlines()[-1]}")
    assert process.stdout is not None
    return figures, process.stdout.read().decode().strip()


def growth(values: list[float]) -> float:
    """The median of the last quarter over the median of the quarter before it."""
    quarter = max(len(values) // 4, 1)
    return float(np.nanmedian(values[-quarter:]) / np.nanmedian(values[-2 * quarter : -quarter]))


def show(console: Console, hours: list[Hour]) -> bool:
    """Prints the table. Returns whether memory and latency stay flat."""
    table = Table("hour", "predictions", "p50 ms", "p99 ms", *(f"{part} MB" for part in PARTS))
    for number, hour in enumerate(hours, 1):
        sizes = (f"{hour.resident_mb.get(part, float('nan')):.0f}" for part in PARTS)
        quantiles = (f"{hour.latency_ms(quantile):.2f}" for quantile in (0.5, 0.99))
        table.add_row(str(number), f"{len(hour.latencies_ms):,}", *quantiles, *sizes)
    console.print(table)
    grown = {part: growth([hour.resident_mb.get(part, np.nan) for hour in hours]) for part in PARTS}
    slower = growth([hour.latency_ms(0.5) for hour in hours])
    console.print(
        "last quarter / quarter before it: " + ", ".join(f"{part} {ratio:.3f}" for part, ratio in grown.items())
    )
    console.print(f"latency p50, last quarter / quarter before it: {slower:.3f}")
    return slower <= MAX_LATENCY_GROWTH and all(ratio <= MAX_MEMORY_GROWTH for ratio in grown.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=24, help="of event time")
    parser.add_argument("--minutes", type=float, default=8.0, help="of wall-clock time")
    arguments = parser.parse_args()
    console = Console(width=160 if not sys.stdout.isatty() else None)
    with tempfile.TemporaryDirectory() as folder:
        figures, summary = run(arguments.hours, arguments.minutes, Path(folder))
    header(console, f"python -m benchmarks.day --hours {arguments.hours} --minutes {arguments.minutes:g}", summary)
    return 0 if show(console, figures) else 1


if __name__ == "__main__":
    sys.exit(main())
