"""From a tick to its prediction as readers of committed records see it, over commit intervals and rates.

A second process produces ticks at a steady rate, and a third process reads. The time is from produce() until the reader
has the prediction, without the first seconds, in which Kafka's JVM compiles. For the same intervals, the worker's
throughput is measured on ticks that are all on the topic already.

    python -m benchmarks.readable [--plot FILE] [--save]
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
from confluent_kafka import OFFSET_BEGINNING, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks.machine import header
from benchmarks.processes import serving
from benchmarks.stored import store
from benchmarks.streaming import fresh, kafka, publish, ticks, worker, worker_round
from benchmarks.targets import Row, Target
from common.config import KafkaConfig
from pipeline.records import encode, record_key
from pipeline.stream.kafka import Sink, consume_batch, make_consumer
from volcast.v1 import Prediction

INTERVALS_MS = (0, 2, 5, 20, 100, 500)
RATES_PER_S = (1_000, 5_000, 20_000)
LATENCY_INTERVAL_MS = 2  # the target is of this interval, at the first of the rates
MAX_P50_MS, MAX_P99_MS = 15.0, 50.0
SETTLE_S = 4.0
MEASURED_S = 6.0
WARM_TICKS = 3000  # of two products at 20 ticks/s: windows of a minute are full
BACKLOG_TICKS = 150_000
START_S = 1.5  # until the reader reads

Times = dict[int, float]  # sequence number -> perf_counter, which is one clock for all processes


class Cell(msgspec.Struct, frozen=True):
    """Latencies of one interval and rate, ms."""

    interval_ms: int
    ticks_per_s: int
    p50_ms: float
    p99_ms: float


def readable_ms(
    config: KafkaConfig, server: str, commit_interval_ms: int, ticks_per_s: int = RATES_PER_S[0]
) -> tuple[float, float]:
    """p50 and p99 from produce() to the committed prediction."""
    config = fresh(config, raw=True)
    publish(config, ticks(WARM_TICKS))
    # Processes of their own: threads would take turns with the worker.
    spawn = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[str, Times]] = spawn.Queue()
    with ExitStack() as cleanup:
        member = worker(cleanup, config, server, "exactly_once", commit_interval_ms)
        while member.totals.consumed < WARM_TICKS or member.forecaster.backlog_rows:
            member.step(0.1)
        processes = [
            spawn.Process(target=task, args=(config, ticks_per_s, results)) for task in (_produce_live, _read_live)
        ]
        for process in processes:
            process.start()
        while results.qsize() < len(processes) and any(process.is_alive() for process in processes):
            member.step(0.1)
        times = dict([results.get(), results.get()])
        for process in processes:
            process.join()
    first = WARM_TICKS + round(ticks_per_s * SETTLE_S)
    taken = [(at_s - times["sent"][number]) * 1e3 for number, at_s in times["read"].items() if number >= first]
    p50, p99 = np.quantile(taken, [0.5, 0.99])
    return float(p50), float(p99)


def _count(ticks_per_s: int) -> int:
    return round(ticks_per_s * (SETTLE_S + MEASURED_S))


def _produce_live(config: KafkaConfig, ticks_per_s: int, results: multiprocessing.Queue[tuple[str, Times]]) -> None:
    live = [tick for tick in ticks(WARM_TICKS + _count(ticks_per_s)) if tick.sequence_num >= WARM_TICKS]
    messages = [(tick.sequence_num, record_key(tick.venue, tick.product_id).encode(), encode(tick)) for tick in live]
    sent: Times = {}
    time.sleep(START_S)
    sink, due_s = Sink(config), time.perf_counter()
    for number, key, value in messages:
        due_s += 1 / ticks_per_s
        ahead_s = due_s - time.perf_counter()
        if ahead_s > 0.0005:
            time.sleep(ahead_s)
        sent[number] = time.perf_counter()
        sink.send(config.topics.raw, key, value)
        sink.poll()
    sink.flush()
    sink.close()
    results.put(("sent", sent))


def _read_live(config: KafkaConfig, ticks_per_s: int, results: multiprocessing.Queue[tuple[str, Times]]) -> None:
    consumer = make_consumer(config, "bench-reader")
    consumer.assign([TopicPartition(config.topics.predictions, 0, OFFSET_BEGINNING)])
    read: Times = {}
    began_s, count = time.perf_counter(), _count(ticks_per_s)
    while len(read) < count and time.perf_counter() - began_s < 5 * (SETTLE_S + MEASURED_S):
        messages = consume_batch(consumer, 1000, 0.1)
        at_s = time.perf_counter()
        for message in messages:
            number = Prediction.FromString(message.value() or b"").sequence_num
            if number >= WARM_TICKS:
                read[number] = at_s
    consumer.close()
    results.put(("read", read))


def measure(
    console: Console, intervals_ms: Sequence[int] = INTERVALS_MS, rates_per_s: Sequence[int] = RATES_PER_S
) -> tuple[list[Cell], dict[int, float]]:
    """Latencies, and ticks per second with predictions by interval."""
    with kafka() as config, serving() as server:
        publish(config, ticks(BACKLOG_TICKS))
        worker_round(config, server, "exactly_once", BACKLOG_TICKS)  # Kafka's JVM compiles
        cells: list[Cell] = []
        highest: dict[int, float] = {}
        for interval in intervals_ms:
            with console.status(f"commit interval {interval} ms"):
                highest[interval] = worker_round(config, server, "exactly_once", BACKLOG_TICKS, interval)
                cells += [Cell(interval, rate, *readable_ms(config, server, interval, rate)) for rate in rates_per_s]
    return cells, highest


def rows(cells: Sequence[Cell], highest: dict[int, float]) -> list[Row]:
    """The same as stored rows; LATENCY_INTERVAL_MS has targets."""
    found = []
    for cell in cells:
        advised = cell.interval_ms == LATENCY_INTERVAL_MS and cell.ticks_per_s == RATES_PER_S[0]
        for name, value, limit in (("p50", cell.p50_ms, MAX_P50_MS), ("p99", cell.p99_ms, MAX_P99_MS)):
            what = (
                f"tick to readable prediction, commit every {cell.interval_ms} ms, {cell.ticks_per_s:,} ticks/s, {name}"
            )
            target = Target("at most", limit, "ms") if advised else None
            found.append(Row(what=what, unit="ms", ours=value, target=target))
    for interval, rate in highest.items():
        found.append(Row(what=f"worker with predictions, commit every {interval} ms", unit="ticks/s", ours=rate))
    return found


def show(console: Console, cells: Sequence[Cell], highest: dict[int, float]) -> None:
    rates = sorted({cell.ticks_per_s for cell in cells})
    table = Table("commit interval, ms", *(f"{rate:,} ticks/s: p50, p99 ms" for rate in rates), "at most, ticks/s")
    for interval, rate in highest.items():
        mine = sorted((cell for cell in cells if cell.interval_ms == interval), key=lambda cell: cell.ticks_per_s)
        table.add_row(f"{interval}", *(f"{cell.p50_ms:.1f}, {cell.p99_ms:.1f}" for cell in mine), f"{rate:,.0f}")
    console.print(table)


def plot(cells: Sequence[Cell], highest: dict[int, float], path: Path) -> None:
    """Latency against the rate of ticks, a line per interval."""
    import matplotlib as mpl

    from training.reporting.report_style import PNG_DPI, STYLE, canvas

    shades = mpl.colormaps["viridis_r"]
    with mpl.rc_context(STYLE):
        figure, (panels,) = canvas(9.6, 4.2, 1, 2)
        for number, (interval, most) in enumerate(highest.items()):
            mine = [cell for cell in cells if cell.interval_ms == interval]
            rates = [cell.ticks_per_s for cell in mine]
            colour = shades((number + 1) / len(highest))
            label = f"{interval} ms ({most / 1e3:.0f},000/s at most)"
            for panel, values in zip(panels, ([c.p50_ms for c in mine], [c.p99_ms for c in mine]), strict=True):
                panel.plot(rates, values, "o-", color=colour, label=label)
        for panel, quantile, limit_ms in zip(panels, ("p50", "p99"), (MAX_P50_MS, MAX_P99_MS), strict=True):
            panel.axhline(limit_ms, linestyle=":", color="black", linewidth=1, label="target")
            panel.set_xscale("log")
            panel.set_yscale("log")
            ticks_per_s = sorted({cell.ticks_per_s for cell in cells})
            panel.set_xticks(ticks_per_s, [f"{rate:,}" for rate in ticks_per_s])
            panel.minorticks_off()
            panel.set_yticks([10, 20, 50, 100, 200, 500], ["10", "20", "50", "100", "200", "500"])
            panel.set_xlabel("ticks/s")
            panel.set_title(f"tick to readable prediction, {quantile}, ms")
        panels[1].legend(title="commit interval", fontsize="small", loc="lower right")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=PNG_DPI)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of latency against throughput")
    parser.add_argument("--save", action="store_true", help="stores the rows in benchmarks/results/readable.json")
    parser.add_argument("--interval", type=int, action="append", help="ms; may be repeated; all by default")
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    intervals = given.interval or INTERVALS_MS
    cells, highest = measure(console, intervals)
    command = "python -m benchmarks.readable"
    header(console, command, f"{MEASURED_S:g} s per cell after {SETTLE_S:g} s; {BACKLOG_TICKS:,} ticks for throughput")
    show(console, cells, highest)
    if given.plot:
        plot(cells, highest, given.plot)
    if given.save:
        store("readable", command, rows(cells, highest))


if __name__ == "__main__":
    main()
