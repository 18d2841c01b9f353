"""From the receipt of a tick to its prediction, minus a bare hop through Kafka, all of it real and in one run.

    python -m benchmarks.latency --rounds 7 --save

A simulated exchange sends 1,000 messages/s over a WebSocket to ingest; Kafka, worker and inference server are processes
too. In each round the path is measured for some seconds, then the exchange is paused (SIGSTOP) and a bare hop takes its
place at the same rate: a process produces messages of a tick's size with ingest's settings, another polls them with the
worker's. While the path is measured, the same two processes also send a few messages, so a round has two hops: alone
and beside the path. The target is on the difference to the hop alone, which is the lower hop.

Stages are the worker's own (pipeline/stream/latency.py). Times are wall-clock times of one machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import OFFSET_END, TopicPartition
from rich.console import Console

from benchmarks.machine import header
from benchmarks.processes import server
from benchmarks.stored import store
from benchmarks.targets import Row, at_most, medians, table
from common.config import Config, KafkaConfig, load_config
from common.status import STATUS_FD
from pipeline.broker.kafka import KafkaBroker
from pipeline.commands.worker import make_worker, subscribe
from pipeline.records import Tick, decode_record, encode
from pipeline.stream.kafka import Sink, connect, consume_batch, make_consumer
from pipeline.stream.kafka_topics import ensure_topics
from pipeline.stream.latency import Stages

MESSAGES_PER_S = 1000
BESIDE_PER_S = 20  # messages of the hop while the path is measured
ROUNDS = 7
SLICE_S = 4.0
SETTLE_S = 1.5  # after a change of load: the exchange first sends the messages that became due while it was paused
WARM_TIMEOUT_S = 240.0
WARM_MARKET_S = 61  # of event time that the exchange sends at once, so that windows of a minute are full
QUANTILES = (0.5, 0.9, 0.99)
HOP_TOPIC = "hop"
TARGETS_MS = {0.5: 0.5, 0.99: 3.0}  # of the total, above the bare hop
COMMAND = "python -m benchmarks.latency"

Quantiles = dict[float, float]


@dataclass(frozen=True)
class Round:
    """ms by quantile."""

    stages: Mapping[str, Quantiles]
    hop: Quantiles
    hop_beside: Quantiles
    ticks_per_s: float


# Processes. Each takes commands from a pipe and answers each of them.


def _worker(config: Config, server_address: str, commands: Connection) -> None:
    """A worker that gives and clears its stages on demand."""
    with ExitStack() as cleanup:
        member, consumer = make_worker(cleanup, config, server_address)
        member.compile()
        subscribe(cleanup, consumer, member, config.kafka.topics.raw)
        steps = 0
        while True:
            member.step(0.1)
            steps += 1
            if steps % 16 == 0 and commands.poll():
                if commands.recv() is None:
                    return
                commands.send((_quantiles_of(member.stages), member.stages.total.count))
                member.stages = Stages()


def _quantiles_of(stages: Stages) -> dict[str, Quantiles]:
    return {name: {q: getattr(stages, name).quantile_ns(q) / 1e6 for q in QUANTILES} for name in Stages.NAMES}


def _produce(config: KafkaConfig, commands: Connection) -> None:
    """Sends (rate per s, duration in s) on demand, each message with the time of its sending."""
    sink = Sink(config)
    while (command := commands.recv()) is not None:
        rate_per_s, duration_s = command
        count, due_s = round(rate_per_s * duration_s), time.perf_counter()
        for number in range(count):
            due_s += 1 / rate_per_s
            time.sleep(max(0.0, due_s - time.perf_counter()))
            now_ns = time.time_ns()
            tick = Tick("BTC-USD", now_ns, now_ns, number, 64123.45, 64123.44, 64123.46, 0.123456, 1.234567)
            sink.send(HOP_TOPIC, b"BTC-USD", encode(tick))
            sink.poll()
        sink.flush()
        commands.send(count)
    sink.close()


def _poll(config: KafkaConfig, commands: Connection) -> None:
    """Polls the hop's topic; gives the latencies in ms since the last question."""
    consumer = make_consumer(config, "bench-hop")
    consumer.assign([TopicPartition(HOP_TOPIC, 0, OFFSET_END)])
    taken: list[float] = []
    while True:
        messages = consume_batch(consumer, 1000, 0.1)
        now_ns = time.time_ns()
        taken += [(now_ns - decode_record(message.value() or b"").ingest_time_ns) / 1e6 for message in messages]
        if not messages and commands.poll():  # the producer has ended before the question comes
            if commands.recv() is None:
                break
            commands.send(taken)
            taken = []
    consumer.close()


@contextmanager
def _child(task: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=task, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        with suppress(OSError):
            ours.send(None)
        process.join(30)


@contextmanager
def _part(arguments: Sequence[str], environ: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """A volcast process once it is ready: its id and its report."""
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
            report = json.loads(status.readline())
            drain = threading.Thread(target=lambda: [None for _ in status], daemon=True)
            drain.start()
            yield process.pid, report
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(60)
            drain.join(10)
    finally:
        process.kill()
        process.wait()


class Bench:
    """The running processes."""

    def __init__(self, cleanup: ExitStack, slice_s: float) -> None:
        self._slice_s = slice_s
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        broker = cleanup.enter_context(KafkaBroker(folder / "kafka"))
        config = load_config()
        kafka = msgspec.structs.replace(config.kafka, bootstrap_servers=broker.bootstrap_servers)
        hop = msgspec.structs.replace(kafka.topics, raw=HOP_TOPIC)
        for each in (kafka, msgspec.structs.replace(kafka, topics=hop)):
            ensure_topics(connect(each), each)
        config = msgspec.structs.replace(config, kafka=kafka)
        server_process = cleanup.enter_context(server())
        rate = str(MESSAGES_PER_S / 2)
        options = ["--simulate", "--rate", rate, "--port", "0", "--fast-forward", f"{WARM_MARKET_S}s"]
        self._exchange, report = cleanup.enter_context(_part(["exchange", *options], {}))
        environ = {
            "VOLCAST_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "VOLCAST_INGEST__MAX_FUTURE_S": "0",
            "VOLCAST_INGEST__METRICS_PORT": "0",
            "VOLCAST_INGEST__BACKLOG_DIR": str(folder / "backlog"),
        }
        archive = str(folder / "archive")
        self._worker = cleanup.enter_context(_child(_worker, config, server_process.address))
        cleanup.enter_context(_part(["ingest", "--url", report["url"], "--archive", archive], environ))
        self._consumer = cleanup.enter_context(_child(_poll, kafka))
        self._producer = cleanup.enter_context(_child(_produce, kafka))
        self._wait_until_warm()

    def _wait_until_warm(self) -> None:
        deadline_s = time.monotonic() + WARM_TIMEOUT_S
        while self._stages()[1] < MESSAGES_PER_S:
            if time.monotonic() > deadline_s:
                raise RuntimeError("no predictions; see: volcast run")
            time.sleep(1.0)

    def _stages(self) -> tuple[dict[str, Quantiles], int]:
        """Since the last call."""
        self._worker.send("stages")
        answer: tuple[dict[str, Quantiles], int] = self._worker.recv()
        return answer

    def _hops(self, rate_per_s: float, duration_s: float) -> list[float]:
        self._producer.send((rate_per_s, duration_s))
        self._producer.recv()
        self._consumer.send("hops")
        taken: list[float] = self._consumer.recv()
        return taken

    def round(self) -> Round:
        os.kill(self._exchange, signal.SIGCONT)
        time.sleep(SETTLE_S)
        self._stages()
        beside = self._hops(BESIDE_PER_S, self._slice_s)
        stages, ticks = self._stages()
        os.kill(self._exchange, signal.SIGSTOP)
        self._hops(MESSAGES_PER_S, SETTLE_S)
        alone = self._hops(MESSAGES_PER_S, self._slice_s)
        return Round(stages, _quantiles(alone), _quantiles(beside), ticks / self._slice_s)


def _quantiles(taken: Sequence[float]) -> Quantiles:
    return {q: float(np.quantile(taken, q)) for q in QUANTILES}


def measure(rounds: int, slice_s: float) -> list[Round]:
    with ExitStack() as cleanup:
        bench = Bench(cleanup, slice_s)
        return [bench.round() for _ in range(rounds)]


def rows_of(rounds: Sequence[Round]) -> list[Row]:
    """Medians over the rounds, ms."""
    rows = []
    for name in Stages.NAMES:
        for q in QUANTILES:
            stage = [each.stages[name][q] for each in rounds]
            rows.append(medians(f"{name}, {_name(q)}", "ms", stage))
    for q in QUANTILES:
        hop, beside = [each.hop[q] for each in rounds], [each.hop_beside[q] for each in rounds]
        rows.append(medians(f"bare hop, {_name(q)}", "ms", hop, "the hop while the path runs", beside))
    for q in QUANTILES:
        target = at_most(TARGETS_MS[q], "ms") if q in TARGETS_MS else None
        above = [each.stages["total"][q] - each.hop[q] for each in rounds]
        rows.append(medians(f"total above the bare hop, {_name(q)}", "ms", above, target=target))
    rows.append(medians("ticks/s", "1/s", [each.ticks_per_s for each in rounds]))
    return rows


def _name(quantile: float) -> str:
    return f"p{quantile * 100:.0f}"


def run(console: Console, rounds: int = ROUNDS, slice_s: float = SLICE_S, *, save: bool = False) -> dict[str, Any]:
    """Prints the table and returns its figures."""
    rows = rows_of(measure(rounds, slice_s))
    what = f"{rounds} rounds of {slice_s:g} s of the path, then {slice_s:g} s of the hop alone, {MESSAGES_PER_S}/s each"
    header(console, COMMAND, f"From the receipt of a tick to its prediction; {what}; medians")
    console.print(table(rows))
    if save:
        store("latency", COMMAND, rows)
    return {row.what: row.ours for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SLICE_S, help="of each slice")
    parser.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results/latency.json")
    options = parser.parse_args()
    run(Console(width=160), options.rounds, options.seconds, save=options.save)


if __name__ == "__main__":
    main()
