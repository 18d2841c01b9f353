"""How long a killed worker takes until it has caught up, whether its rows have the right bits, and its memory.

    python -m benchmarks.restart          # 20 products at 10/s, one at 500/s, one quiet for 10 min
    python -m benchmarks.restart --save   # keeps the result in benchmarks/results/restart.json

Event time runs as fast as Kafka and worker can take it, so no snapshot is due by time: the worker's bound on records
alone decides how much a restart reads again. All products share one partition. Once the worker has committed the whole
market, it gets SIGKILL. While it is down, two more seconds of the market arrive, with ticks of the quiet product. The
time runs from the start of the new process until the last of these ticks is committed. It includes the start of
Python. Rows and predictions are then compared with the oracle, as in benchmarks/faults.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.faults.judge import Verdict, ask_server, judge, read_committed, read_results, topic_oracle
from benchmarks.features import market
from benchmarks.machine import header
from benchmarks.processes import server
from benchmarks.stored import store
from benchmarks.streaming import await_settled
from benchmarks.targets import Row, at_most
from cli.run.processes import ProcessGroup
from common.config import KafkaConfig
from pipeline.broker.kafka import KafkaBroker
from pipeline.records import Gap, Record, Tick, decode_record
from pipeline.stream.kafka import Sink, connect
from pipeline.stream.kafka_topics import ensure_topics
from pipeline.stream.publish import Publisher

WARM_S = 60.0  # core/1: how long the quiet product has ticks before it is quiet
DOWN_S = 2.0  # of the market, while the worker is down
SETTLED_S = 240.0
POLL_S = 0.02
LIMIT_S, LIMIT_MB = 5.0, 200.0


@dataclass(frozen=True)
class Mix:
    """Products with a tick rate each, and one that is quiet after WARM_S."""

    slow_products: int = 20
    slow_per_s: float = 10.0
    busy_per_s: float = 500.0
    quiet_s: float = 600.0

    def ticks(self) -> Iterator[Tick]:
        """The market in the order of event time: WARM_S, quiet_s, DOWN_S."""
        whole_s = WARM_S + self.quiet_s + DOWN_S
        rates = {f"SLOW{number}-USD": self.slow_per_s for number in range(self.slow_products)}
        columns = [
            (product, market(round(rate * whole_s), rate, seed))
            for seed, (product, rate) in enumerate({**rates, "BUSY-USD": self.busy_per_s, "QUIET-USD": 10.0}.items())
        ]
        start_ns = min(int(each.event_time_ns[0]) for _, each in columns)
        times = np.concatenate([each.event_time_ns for _, each in columns])
        owners = np.repeat(np.arange(len(columns)), [len(each) for _, each in columns])
        places = np.concatenate([np.arange(len(each)) for _, each in columns])
        for number, at in enumerate(np.argsort(times, kind="stable").tolist()):
            (product, of), row, since_s = columns[owners[at]], int(places[at]), (int(times[at]) - start_ns) / 1e9
            if product == "QUIET-USD" and WARM_S < since_s < WARM_S + self.quiet_s:
                continue
            bid, ask, at_ns = float(of.bid[row]), float(of.ask[row]), int(times[at])
            quantities = float(of.bid_quantity[row]), float(of.ask_quantity[row])
            yield Tick(product, at_ns, at_ns + 1000, number, bid, bid, ask, *quantities)


@dataclass(frozen=True)
class Outcome:
    ticks: int
    caught_up_s: float
    resident_mb: float  # once it has caught up
    peak_mb: float  # of resident memory since its start
    verdict: Verdict


def measure(kafka: KafkaConfig, server_address: str, folder: Path, mix: Mix) -> Outcome:
    """Runs the course on a Kafka with one partition. Raises UnavailableError if a worker fails."""
    group_id = f"restart-{os.getpid()}-{time.time_ns()}"
    environ = {
        "VOLCAST_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "VOLCAST_KAFKA__PARTITIONS": str(kafka.partitions),
        **{
            f"VOLCAST_KAFKA__TOPICS__{role.upper()}": name
            for role, name in msgspec.structs.asdict(kafka.topics).items()
        },
        "VOLCAST_WORKER__SERVER": server_address,
        "VOLCAST_WORKER__METRICS_PORT": "0",
        "VOLCAST_WORKER__PARQUET_DIR": "",
        "VOLCAST_WORKER__GROUP_ID": group_id,
        "VOLCAST_WORKER__INSTANCE_ID": "restarted",
    }
    ticks = list(mix.ticks())
    last_ns = ticks[-1].event_time_ns - round(DOWN_S * 1e9)
    before = [tick for tick in ticks if tick.event_time_ns <= last_ns]
    with ProcessGroup(folder, None) as processes:
        _publish(kafka, before)
        first = processes.start("worker-0", ["worker"], environ)
        await_settled(kafka, group_id, processes, first, SETTLED_S)
        assert first.popen is not None
        first.popen.send_signal(signal.SIGKILL)
        first.popen.wait(10)
        _publish(kafka, ticks[len(before) :])
        began_s = time.monotonic()
        second = processes.start("worker-1", ["worker"], environ)
        await_settled(kafka, group_id, processes, second, SETTLED_S, POLL_S)
        caught_up_s = time.monotonic() - began_s
        assert second.popen is not None
        memory = _memory_mb(second.popen.pid)
        processes.stop(second)
    return Outcome(len(ticks), caught_up_s, memory["VmRSS"], memory["VmHWM"], _judged(kafka, server_address))


def _judged(kafka: KafkaConfig, server_address: str) -> Verdict:
    """Compares the committed records with those that an engine computes from ticks.raw in one go."""
    raw: dict[int, list[tuple[int, Record]]] = defaultdict(list)
    for message in read_committed(kafka, kafka.topics.raw):
        record = decode_record(message.value() or b"")
        if isinstance(record, Tick | Gap):
            raw[message.partition() or 0].append((message.offset() or 0, record))
    _, by_source = read_results(kafka)
    return judge(topic_oracle(raw, []), by_source, partial(ask_server, server_address))


def _publish(kafka: KafkaConfig, ticks: list[Tick]) -> None:
    sink = Sink(kafka)
    Publisher(sink, kafka.topics).publish(ticks)
    sink.flush(SETTLED_S)
    sink.close()


def _memory_mb(pid: int) -> dict[str, float]:
    """VmRSS and VmHWM, among others, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.endswith("kB"))
    return {name: int(value.split()[0]) * 1024 / 1e6 for name, value in fields.items()}


def rows(outcome: Outcome) -> tuple[Row, ...]:
    verdict = outcome.verdict
    altered = verdict.lost_rows + verdict.repeated_rows + verdict.altered_rows
    return (
        Row(what="until caught up", unit="s", ours=outcome.caught_up_s, target=at_most(LIMIT_S, "s")),
        Row(what="resident", unit="MB", ours=outcome.resident_mb, target=at_most(LIMIT_MB, "MB")),
        Row(what="peak of resident memory", unit="MB", ours=outcome.peak_mb),
        Row(what="ticks", unit="", ours=outcome.ticks),
        Row(what="lost, repeated or altered rows", unit="", ours=altered, target=at_most(0, "")),
        Row(what="lost, repeated, altered or missing predictions", unit="", ours=verdict.faults - altered),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quiet-s", type=float, default=Mix.quiet_s, help="how long the quiet product is quiet")
    parser.add_argument("--save", action="store_true", help="keep the result")
    options = parser.parse_args()
    console = Console()
    mix = Mix(quiet_s=options.quiet_s)
    slow, busy = f"{mix.slow_products} products at {mix.slow_per_s:g}/s", f"one at {mix.busy_per_s:g}/s"
    header(console, "python -m benchmarks.restart", f"{slow}, {busy}, one quiet for {mix.quiet_s:g} s")
    with tempfile.TemporaryDirectory() as folder, KafkaBroker(Path(folder) / "kafka") as broker, server() as serving:
        kafka = KafkaConfig(bootstrap_servers=broker.bootstrap_servers, partitions=1)
        ensure_topics(connect(kafka), kafka)
        outcome = measure(kafka, serving.address, Path(folder), mix)
    results = rows(outcome)
    table = Table("restart of a worker", "value", "target")
    for row in results:
        table.add_row(row.what, f"{row.ours:,.2f} {row.unit}".strip(), str(row.target or ""))
    console.print(table)
    if options.save:
        store("restart", "python -m benchmarks.restart --save", results)
    return int(outcome.verdict.faults > 0)


if __name__ == "__main__":
    raise SystemExit(main())
