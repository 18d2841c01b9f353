"""Whether docs/scaling.md derives the right number of partitions and workers for 10,000 products.

A simulation places products on partitions as Kafka does (murmur2 of the key), partitions on workers as the
cooperative assignor does (the same number each), and lets ticks arrive at heavy-tailed rates with bursts. It prints
the load of the hottest partition and worker beside the derived bound, and the longest backlog.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.features import market
from benchmarks.machine import header, machine
from common.schema import CORE_1, FULL_1, FeatureSchema
from pipeline.records import Tick, encode
from pipeline.stream import codec

PRODUCTS = 10_000
HOTTEST_TICKS_PER_S = 10_000.0  # four times the busiest perpetual that was recorded (2,466 messages/s)
TAIL = 1.0  # Zipf: the k-th product has 1/k of the hottest's rate
WORKER_TICKS_PER_S = 90_000.0  # core/1 with predictions, exactly once (a probe: 91,000 to 96,000)
BROKER_BYTES_PER_S = 40e6  # produced by one client to a broker on two shared cores: 184,000 records/s
MAX_LOAD = 0.5  # of a worker at the market's busiest: the other half catches up after a restart
BURST = 3.0  # of all products at once
BURST_S = 2.0
QUIET_S = 20.0  # between bursts, on average
PEAK_TO_MEAN = 5.0  # of the busiest minute to a day's mean
REPLICAS = 3
PARTITIONS = (12, 24, 48, 96, 192)
MARKETS = 20  # seeds: which product is how busy
SIGMAS = 3.0
SECONDS = 600
STEP_S = 0.1


@dataclass(frozen=True, slots=True)
class Loads:
    """Of the hottest partition and worker, over all markets, in ticks/s."""

    partition: float
    worker: float
    bound: float  # derived for the partition
    backlog_s: float  # the longest that a tick waited for its worker


def run(console: Console) -> dict[str, Any]:
    """Prints the tables and gives their figures."""
    header(console, "volcast bench scaling", f"{PRODUCTS:,} products, {MARKETS} markets, {SECONDS} s each")
    rates = zipf_rates()
    workers = workers_needed(rates.sum())
    figures: dict[str, Any] = {"machine": machine(), "ticks_per_s": rates.sum(), "workers": workers}
    console.print(f"{rates.sum():,.0f} ticks/s, the hottest product {rates[0]:,.0f}; {workers} workers are derived")
    table = Table("partitions", "hottest partition", "derived bound", "of the mean", f"hottest of {workers} workers")
    table.add_column("of its rate")
    table.add_column("longest wait")
    for partitions in PARTITIONS:
        loads = simulate_loads(rates, partitions, workers)
        figures[f"partitions {partitions}"] = loads
        table.add_row(
            str(partitions),
            f"{loads.partition:,.0f}/s",
            f"{loads.bound:,.0f}/s",
            f"{loads.partition / (rates.sum() / partitions):.1f} x",
            f"{loads.worker:,.0f}/s",
            f"{loads.worker / WORKER_TICKS_PER_S:.0%}",
            f"{loads.backlog_s:.2f} s",
        )
    console.print(table)
    figures["bytes"] = _bytes(console, rates.sum() / PEAK_TO_MEAN)
    return figures


def zipf_rates(products: int = PRODUCTS) -> NDArray[np.float64]:
    """Ticks/s of each product (products,) at the market's busiest, the hottest first."""
    return np.asarray(HOTTEST_TICKS_PER_S / np.arange(1, products + 1) ** TAIL)


def workers_needed(ticks_per_s: float) -> int:
    return max(1, math.ceil(ticks_per_s / (MAX_LOAD * WORKER_TICKS_PER_S)))


def partition_bound(rates: NDArray[np.float64], partitions: int) -> float:
    """Ticks/s that the hottest partition hardly exceeds: the two hottest products, and the mean and SIGMAS standard
    deviations of what the other products (placed at random) bring to a partition.

    One product is too few: its partition often has another of the hottest, and a sum with so heavy a tail is not
    normal.
    """
    rest = rates[2:]
    share = 1 / partitions
    spread = math.sqrt(float((rest**2).sum()) * share * (1 - share))
    return float(rates[:2].sum() + rest.sum() * share + SIGMAS * spread)


def murmur2(key: bytes) -> int:
    """The 32-bit hash of org.apache.kafka.common.utils.Utils.murmur2, as unsigned (A. Appleby, MurmurHash2)."""
    factor, mask = 0x5BD1E995, 0xFFFFFFFF
    state = (0x9747B28C ^ len(key)) & mask
    whole = len(key) // 4 * 4
    for start in range(0, whole, 4):
        word = int.from_bytes(key[start : start + 4], "little") * factor & mask
        word = (word ^ word >> 24) * factor & mask
        state = (state * factor & mask) ^ word
    if rest := key[whole:]:
        state = (state ^ int.from_bytes(rest, "little")) * factor & mask
    state = (state ^ state >> 13) * factor & mask
    return state ^ state >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """Where the murmur2_random partitioner, as Java's default one, places a key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def simulate_loads(rates: NDArray[np.float64], partitions: int, workers: int) -> Loads:
    hottest_partition = hottest_worker = backlog_s = 0.0
    placed = np.array([partition_of(b"coinbase:P%05d-USD" % number, partitions) for number in range(len(rates))])
    for seed in range(MARKETS):
        random = np.random.default_rng(seed)
        of_partition = np.bincount(random.permutation(placed), weights=rates, minlength=partitions)
        of_worker = np.bincount(random.permutation(partitions) % workers, weights=of_partition, minlength=workers)
        hottest_partition = max(hottest_partition, float(of_partition.max()))
        hottest_worker = max(hottest_worker, float(of_worker.max()))
        backlog_s = max(backlog_s, _longest_wait_s(float(of_worker.max()), random))
    return Loads(hottest_partition, hottest_worker, partition_bound(rates, partitions), backlog_s)


def _longest_wait_s(ticks_per_s: float, random: np.random.Generator) -> float:
    """Of ticks that arrive at this rate, BURST times as fast in bursts, at one worker."""
    steps = round(SECONDS / STEP_S)
    bursts = random.random(steps) < STEP_S / QUIET_S
    factor = np.ones(steps)
    for start in np.flatnonzero(bursts):
        factor[start : start + round(BURST_S / STEP_S)] = BURST
    arrivals = random.poisson(ticks_per_s * STEP_S * factor)
    waiting = longest = 0.0
    for arrived in arrivals:
        waiting = max(0.0, waiting + arrived - WORKER_TICKS_PER_S * STEP_S)
        longest = max(longest, waiting)
    return longest / WORKER_TICKS_PER_S


def _bytes(console: Console, mean_ticks_per_s: float) -> dict[str, float]:
    """Bytes per record of each topic, and per day at the mean rate."""
    sizes = record_bytes()
    day = mean_ticks_per_s * 86_400
    table = Table("topic", "bytes a record", "with lz4", f"GB a day at {mean_ticks_per_s:,.0f}/s", "on disk, lz4")
    for name, (plain, packed) in sizes.items():
        stored = f"{packed * day * REPLICAS / 1e9:,.0f} GB"
        table.add_row(name, f"{plain:.0f}", f"{packed:.0f}", f"{plain * day / 1e9:,.0f}", stored)
    console.print(table)
    return {name: packed for name, (_, packed) in sizes.items()}


def record_bytes(rows: int = 1000) -> dict[str, tuple[float, float]]:
    """Per record of a batch of `rows`: plain, and compressed with lz4. Kafka adds some ten bytes for each."""
    ticks = market(rows, 20.0)
    names = Tick.__struct_fields__[1:9]
    raw = [
        encode(Tick("BTC-USD", *values)) for values in zip(*(getattr(ticks, n).tolist() for n in names), strict=True)
    ]
    topics = {"ticks.raw": raw}
    for schema in (CORE_1, FULL_1):
        topics[f"ticks.features, {schema.name}"] = _feature_records(rows, schema)
    return {name: (_mean(records), _packed(records)) for name, records in topics.items()}


def _feature_records(rows: int, schema: FeatureSchema) -> list[bytes]:
    numbers = 1_775_428_513_000_000_000 + np.arange(rows)
    values = np.random.default_rng(1).random((rows, len(schema)))
    layout = codec.feature_rows("BTC-USD", schema.hash, len(schema))
    messages = layout.encode(
        rows, event_time_ns=numbers, ingest_time_ns=numbers, sequence_num=numbers, values=values, warm=True
    )
    return [bytes(message) for message in messages]


def _mean(records: list[bytes]) -> float:
    return sum(map(len, records)) / len(records)


def _packed(records: list[bytes]) -> float:
    return len(pa.compress(b"".join(records), codec="lz4", asbytes=True)) / len(records)
