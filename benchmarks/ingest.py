"""`volcast ingest` in messages per second: exchange, WebSocket, decoder, archive, Kafka, all of it real.

- `encoded exchange`: simulated messages are encoded as WebSocket frames before the first is sent, so the exchange only
  writes bytes. The rate is that of ingest and Kafka.
- `volcast exchange --simulate`: on two cores it computes the market and builds frames beside ingest and Kafka, and the
  three share the CPU.

Each round uses new topics and a new archive. A round begins when ingest reports "ready" and ends when Kafka has
acknowledged every record. Records on ticks.raw and lines of the archive are counted afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from confluent_kafka import TopicPartition
from rich.console import Console
from rich.table import Table
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import CloseCode, Frame, Opcode

from benchmarks.machine import header
from common.config import KafkaConfig
from common.status import STATUS_FD
from pipeline.archive import expand_paths
from pipeline.archive.lines import read_lines
from pipeline.broker.kafka import KafkaBroker
from pipeline.exchange.items import simulated
from pipeline.exchange.protocol import Session
from pipeline.exchange.simulator import PROFILES, simulate
from pipeline.feed.coinbase import subscribe_messages
from pipeline.stream.kafka import make_consumer, partitions_of, watermarks

SENT_TICKS = 200_000
ROUNDS = 3
CHUNK_BYTES = 64 * 1024
ENCODED, SIMULATING = "encoded exchange", "volcast exchange --simulate"


def run(console: Console) -> dict[str, Any]:
    """Prints the table and returns its figures: medians of the rounds."""
    what = f"{SENT_TICKS:,} simulated ticks at full speed, to Kafka and an archive; medians of {ROUNDS} rounds"
    header(console, "volcast bench ingest", what)
    simulate_command = ["-m", "cli.main", "exchange", "--simulate", "--speed", "max", "--port", "0"]
    commands = {
        ENCODED: ["-m", "benchmarks.ingest"],
        SIMULATING: [*simulate_command, "--max-ticks", str(SENT_TICKS)],
    }
    with tempfile.TemporaryDirectory() as folder, KafkaBroker(Path(folder) / "kafka") as broker:
        kafka = KafkaConfig(bootstrap_servers=broker.bootstrap_servers)
        rounds = {
            name: [_round(kafka, command, Path(folder) / f"{name}-{number}") for number in range(ROUNDS)]
            for name, command in commands.items()
        }
    figures = {name: _medians(each) for name, each in rounds.items()}
    table = Table("", *commands)
    for row in figures[ENCODED]:
        table.add_row(row, *(f"{figures[name][row]:,.1f}" for name in commands))
    console.print(table)
    return figures


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def _round(kafka: KafkaConfig, exchange_command: list[str], archive: Path) -> dict[str, float]:
    topics = _topics(archive.name.rpartition("-")[2] + exchange_command[1].replace(".", "-"))
    environ = {
        "VOLCAST_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "VOLCAST_INGEST__MAX_FUTURE_S": "0",
        "VOLCAST_INGEST__METRICS_PORT": "0",
        "VOLCAST_INGEST__BACKLOG_DIR": str(archive / "backlog"),
        **topics,
    }
    raw = archive / "raw"
    with _part(exchange_command, {}) as (exchange, _):
        url = json.loads(exchange.readline())["url"]
        arguments = ["-m", "cli.main", "ingest", "--url", url, "--until-closed", "--archive", str(raw)]
        with _part(arguments, environ) as (ingest, process):
            assert json.loads(ingest.readline())["event"] == "ready"
            began_s, cpu_before_s = time.perf_counter(), _cpu_s(process)
            summary, cpu_after_s = _summary(ingest, process)
            took_s = time.perf_counter() - began_s
    return {
        "messages/s": summary["messages"] / took_s,
        "CPU of ingest, µs a message": (cpu_after_s - cpu_before_s) / summary["messages"] * 1e6,
        "ticks that are not on the topic": SENT_TICKS - _records(kafka, topics["VOLCAST_KAFKA__TOPICS__RAW"]),
        "messages that are not in the archive": summary["messages"] - _lines(raw),
    }


def _topics(suffix: str) -> dict[str, str]:
    names = ("raw", "features", "predictions", "late", "dead")
    return {f"VOLCAST_KAFKA__TOPICS__{name.upper()}": f"bench.{suffix}.{name}" for name in names}


@contextlib.contextmanager
def _part(arguments: list[str], environ: dict[str, str]) -> Iterator[tuple[IO[str], subprocess.Popen[bytes]]]:
    """A process of Python; yields its status reports and the process."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        pass_fds=[writer],
        env={**os.environ, **environ, STATUS_FD: str(writer)},
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as status:
            yield status, process
    finally:
        process.terminate()
        process.wait(60)


def _cpu_s(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _summary(status: IO[str], process: subprocess.Popen[bytes]) -> tuple[dict[str, Any], float]:
    """The last report, and the CPU time until then."""
    for line in status:
        report: dict[str, Any] = json.loads(line)
        if report["event"] == "summary":
            return report, _cpu_s(process)
    raise RuntimeError("ingest ended without a summary")


def _records(kafka: KafkaConfig, topic: str) -> int:
    consumer = make_consumer(kafka, "volcast-bench")
    try:
        ends = [
            watermarks(consumer, TopicPartition(topic, number), kafka.timeout_s)
            for number in partitions_of(consumer, topic, kafka.timeout_s)
        ]
        return sum(end - first for first, end in ends)
    finally:
        consumer.close()


def _lines(archive: Path) -> int:
    """Messages of an archive; its header lines are not counted."""
    lines = [line for path in expand_paths(str(archive)) for line in read_lines(path)]
    return sum(1 for line in lines if not line.content.startswith(b'{"volcast_archive"'))


def _encoded_feed() -> tuple[list[bytes], list[bytes]]:
    """The answers to ingest's two requests, and then all ticks as frames, in chunks."""
    session = Session(PROFILES)
    answers = [session.receive(request, 0) for request in subscribe_messages(PROFILES)]
    messages = map(session.message, islice(simulated(simulate(PROFILES, 1, 20.0)), SENT_TICKS))
    chunks, chunk = [], bytearray()
    for message in messages:
        assert message is not None
        chunk += Frame(Opcode.TEXT, message).serialize(mask=False)
        if len(chunk) >= CHUNK_BYTES:
            chunks.append(bytes(chunk))
            chunk.clear()
    return answers, [*chunks, bytes(chunk)]


async def _serve_encoded() -> None:
    """An exchange that sends its encoded feed to each client that has subscribed. Runs until it is ended."""
    answers, chunks = _encoded_feed()

    async def send(connection: ServerConnection) -> None:
        for answer in answers:
            await connection.recv()
            await connection.send(answer, text=True)
        for chunk in chunks:
            connection.transport.write(chunk)
            await connection.drain()
        await connection.close(CloseCode.NORMAL_CLOSURE, "end of simulation")

    async with serve(send, "127.0.0.1", 0, compression=None, close_timeout=60) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with os.fdopen(int(os.environ[STATUS_FD]), "w") as status:
            print(json.dumps({"event": "ready", "url": f"ws://127.0.0.1:{port}"}), file=status, flush=True)
            await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(_serve_encoded())
