"""The feature engine in nanoseconds per tick, beside what it could have been.

- `exact sums` is the engine; `plain sum` and `Neumaier sum` are the same loop with another running sum
  (add what enters, subtract what leaves), and what they are off by.
  A restart replays the last minutes into a new engine, as the worker does.
- `full/1` is the engine with the 16 features more of that schema; the other rows are core/1.
- `naive NumPy` recomputes each window from the arrays on every tick, found by binary search.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.machine import header, machine
from benchmarks.sums import RIVAL_SUMS
from common.schema import CORE_1, FULL_1
from pipeline.archive import read_archive
from pipeline.datasets import coinbase_ticker_2025
from pipeline.features import full, kernels
from pipeline.features.columns import ProductCodes, TickColumns
from pipeline.features.engine import FeatureEngine
from pipeline.records import Gap, Record, Tick

BUSY_TICKS_PER_S = 2_500.0  # what a busy perpetual peaks at
BUSY_TICKS = 400_000
NAIVE_TICKS = 2_000
BATCHES = (1, 100, 1000)
REPEATS = 5
DRIFT_TICKS = 1_000_000
MANY_PRODUCTS = 10_000


def run(console: Console) -> dict[str, Any]:
    """Prints the tables and gives their figures: nanoseconds per tick, unless a name says otherwise."""
    began = time.perf_counter()
    kernels.compiled()
    compile_s = time.perf_counter() - began
    full.compiled()
    compile_full_s = time.perf_counter() - began - compile_s
    how = f"CPU time, best of {REPEATS} rounds; compiled in {compile_s:.2f} s, full/1 in {compile_full_s:.2f} s (wall)"
    header(console, "volcast bench features", how)
    figures: dict[str, Any] = {"machine": machine(), "compile_s": compile_s, "compile_full_s": compile_full_s}
    markets = {f"busy market, {BUSY_TICKS_PER_S:,.0f} ticks/s": market(BUSY_TICKS, BUSY_TICKS_PER_S)}
    recorded = _recorded()
    if recorded:
        markets["Coinbase BTC-USD, recorded"] = TickColumns.from_records(recorded, ProductCodes())
    else:
        console.print("the recordings are not on this machine; a quiet generated market stands in")
        markets["quiet market, 5 ticks/s"] = market(70_000, 5.0)
    figures["engine"] = {name: _engine(console, name, ticks) for name, ticks in markets.items()}
    figures["many_products"] = _many_products(console)
    figures["drift"] = _drift(console)
    figures["columns"] = _columns(console, recorded or _as_records(market(70_000, 5.0)))
    return figures


def market(ticks: int, ticks_per_s: float, seed: int = 1) -> TickColumns:
    """A seeded market whose mid moves by a cent on two ticks of five."""
    rng = np.random.default_rng(seed)
    at_ns = 1_775_428_513_000_000_000 + np.cumsum(rng.exponential(1e9 / ticks_per_s, ticks)).astype(np.int64)
    bid = 60_000 + np.cumsum(0.01 * rng.integers(-1, 2, ticks) * (rng.random(ticks) < 0.6), dtype=np.float64)
    return TickColumns(
        product=np.zeros(ticks, np.int32),
        kind=np.zeros(ticks, np.uint8),
        event_time_ns=at_ns,
        sequence_num=np.arange(ticks),
        price=bid,
        bid=bid,
        ask=bid + 0.01,
        bid_quantity=rng.exponential(1.0, ticks),
        ask_quantity=rng.exponential(1.0, ticks),
        ingest_time_ns=at_ns,
    )


def _recorded() -> list[Record]:
    files = coinbase_ticker_2025()
    return [one for one in read_archive(files) if isinstance(one, Tick | Gap)] if files else []


def _as_records(ticks: TickColumns) -> list[Record]:
    columns = (getattr(ticks, name).tolist() for name in Tick.__struct_fields__[1:9])
    return [Tick("BTC-USD", *row) for row in zip(*columns, strict=True)]


def _engine(console: Console, name: str, ticks: TickColumns) -> dict[str, float]:
    work = {f"exact sums, batches of {size:,}": _updates(FeatureEngine, ticks, size) for size in BATCHES}
    work["exact sums, one call"] = _updates(FeatureEngine, ticks, len(ticks))
    for size in (1, len(ticks)):
        name_of_row = "full/1, one call" if size > 1 else "full/1, batches of 1"
        work[name_of_row] = _updates(lambda: FeatureEngine(FULL_1), ticks, size)
    for kind, rival in RIVAL_SUMS.items():
        work[f"{kind} sum, one call"] = _updates(rival(), ticks, len(ticks))
    rows = _best_ns(work, REPEATS)
    rows |= _best_ns({"naive NumPy, each tick anew": (NAIVE_TICKS, lambda: _naive(ticks, NAIVE_TICKS))}, 1)
    whole = rows["exact sums, one call"]
    table = Table(title=f"{name}: {len(ticks):,} records", title_justify="left")
    for heading in ("", "ns/tick", "ticks/s", "of one call"):
        table.add_column(heading, justify="right" if heading else "left")
    for label, ns in rows.items():
        table.add_row(label, f"{ns:,.0f}", f"{1e9 / ns:,.0f}", f"{ns / whole:.2f}")
    console.print(table)
    call_us = (rows["exact sums, batches of 1"] - whole) / 1000
    console.print(f"a call of update() costs {call_us:.1f} µs beside its ticks\n")
    return rows | {"call_overhead_us": call_us}


Work = tuple[int, Callable[[], object]]  # how many ticks, and what to do with them


def _updates(engine: Callable[[], FeatureEngine], ticks: TickColumns, size: int) -> Work:
    count = min(len(ticks), 20_000 * size)
    parts = [ticks.part(start, min(start + size, count)) for start in range(0, count, size)]
    engine().compile()

    def once() -> None:
        update = engine().update
        for part in parts:
            update(part)

    return count, once


def _best_ns(work: dict[str, Work], repeats: int) -> dict[str, float]:
    """CPU time of the best of some rounds, in each of which everything has its turn: other load only ever adds."""
    best = dict.fromkeys(work, math.inf)
    for _ in range(repeats):
        for label, (count, once) in work.items():
            began = time.thread_time_ns()
            once()
            best[label] = min(best[label], (time.thread_time_ns() - began) / count)
    return best


def _many_products(console: Console) -> dict[str, float]:
    """Ticks that go around among so many products that no cache holds their state."""
    ticks = market(BUSY_TICKS, 2.0 * MANY_PRODUCTS)
    product = np.random.default_rng(3).integers(0, MANY_PRODUCTS, BUSY_TICKS).astype(np.int32)
    ticks = dataclasses.replace(ticks, product=product)
    work = {
        schema.name: _updates(lambda schema=schema: FeatureEngine(schema), ticks, len(ticks))  # type: ignore[misc]
        for schema in (CORE_1, FULL_1)
    }
    figures = _best_ns(work, REPEATS)
    for label, ns in figures.items():
        console.print(f"{MANY_PRODUCTS:,} products, 2 ticks/s each, {label}, one call: {ns:,.0f} ns/tick")
    return figures


def _naive(ticks: TickColumns, count: int) -> NDArray[np.float64]:
    """The last `count` rows (count, 11) with no state at all; gaps are not looked at."""
    mids = (ticks.bid + ticks.ask) / 2
    rows = np.empty((count, kernels.FEATURES))
    for row, at in enumerate(range(len(ticks) - count, len(ticks))):
        now_ns, mid = ticks.event_time_ns[at], mids[at]
        past = [np.searchsorted(ticks.event_time_ns[:at], now_ns - window, "right") for window in kernels.WINDOWS_NS]
        window = np.log(mids[past[-1] - 1 : at + 1])
        spread = ticks.ask[at] - ticks.bid[at]
        depth = ticks.bid_quantity[at] + ticks.ask_quantity[at]
        imbalance = (ticks.bid_quantity[at] - ticks.ask_quantity[at]) / depth if depth else 0.0
        rows[row, :2] = ticks.price[at], mid
        rows[row, 2:6] = [math.log(mid / mids[first - 1]) for first in past]
        rows[row, 6] = math.sqrt(np.square(np.diff(window)).sum())
        rows[row, 7:] = (at + 1 - past[-1]) / 60, spread, spread / mid, imbalance
    return rows


def _columns(console: Console, records: list[Record]) -> dict[str, float]:
    figures = _best_ns({f"batches of {size:,}": _conversions(records, size) for size in BATCHES}, REPEATS)
    table = Table(title="records to columns", title_justify="left")
    for heading in ("", "ns/tick", "ticks/s"):
        table.add_column(heading, justify="right" if heading else "left")
    for label, ns in figures.items():
        table.add_row(label, f"{ns:,.0f}", f"{1e9 / ns:,.0f}")
    console.print(table)
    return figures


def _conversions(records: list[Record], size: int) -> Work:
    count = min(len(records), 20_000 * size)
    parts = [records[start : min(start + size, count)] for start in range(0, count, size)]
    codes = ProductCodes()

    def once() -> None:
        for part in parts:
            TickColumns.from_records(part, codes)

    return count, once


def _drift(console: Console) -> dict[str, dict[str, float]]:
    """What each running sum makes of prices that were a thousand times higher for a while, and of a restart."""
    ticks = market(DRIFT_TICKS, 500.0, seed=2)
    scale = np.ones(DRIFT_TICKS)
    scale[DRIFT_TICKS // 4 : DRIFT_TICKS // 2] = 1000.0
    ticks = dataclasses.replace(ticks, bid=ticks.bid * scale, ask=ticks.ask * scale)
    last = ticks.event_time_ns > ticks.event_time_ns[-1] - kernels.LONGEST_NS
    last[np.flatnonzero(last)[0] - 1] = True  # the first return of the window is from the tick before it
    mids = (ticks.bid[last] + 0.5 * (ticks.ask[last] - ticks.bid[last])).tolist()
    moves = [kernels.log_return(after, before) for before, after in pairwise(mids)]
    want = math.sqrt(math.fsum(move * move for move in moves))
    restart, compared = DRIFT_TICKS * 3 // 4, DRIFT_TICKS // 8
    figures = {}
    table = Table(title=f"volatility after {DRIFT_TICKS:,} ticks with two jumps", title_justify="left")
    for heading in (
        "running sum",
        "relative error against math.fsum",
        f"of {compared:,} rows, other bits after a restart",
    ):
        table.add_column(heading, justify="left" if heading == "running sum" else "right")
    engines: dict[str, type[FeatureEngine]] = {"exact": FeatureEngine}
    engines |= {kind: rival() for kind, rival in RIVAL_SUMS.items()}
    for kind, engine in engines.items():
        whole = engine().update(ticks).values[-compared:, 6]
        restarted = engine().update(ticks.part(restart, DRIFT_TICKS)).values[-compared:, 6]
        error, other = abs(float(whole[-1]) - want) / want, int(np.count_nonzero(whole != restarted))
        figures[kind] = {"relative_error": error, "other_bits_rows": other}
        table.add_row(kind, f"{error:.1e}", f"{other:,}")
    console.print(table)
    return figures
