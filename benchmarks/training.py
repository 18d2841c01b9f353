"""A million rows from ticks or quotes to labelled, split rows: features, labels, folds; reading apart.

python -m benchmarks.training [--rows 1000000] [--json]
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import header
from common.schema import CORE_1, FULL_1, FeatureSchema
from pipeline.features.columns import TickColumns
from training.problem import leakage
from training.problem.data import archives
from training.problem.multiscale_features import quote_features
from training.problem.rows import Rows, build_rows
from training.problem.schemas import QUOTES_1, window_s
from training.problem.splits import SplitRules, final_split, walk_forward
from training.problem.ticks import NS_PER_S, TickSeries

TARGET_S = 5.0
HORIZON_S = 60
FOLDS = 5
PART_TICKS = 65_536  # as the loader cuts them


def made_up(rows: int, seconds_apart: float, seed: int = 0) -> tuple[Any, Any]:
    """Times and mids, (rows,) each: a random walk."""
    random = np.random.default_rng(seed)
    time_ns = np.cumsum(random.exponential(seconds_apart * NS_PER_S, rows).astype(np.int64) + 1)
    return time_ns, np.round(60_000 * np.exp(np.cumsum(random.normal(scale=1e-5, size=rows))), 2)


def tick_rows(rows: int, schema: FeatureSchema) -> Callable[[], Rows]:
    """Five ticks a second, all kept."""
    time_ns, mid = made_up(rows, 0.2)
    sizes = np.random.default_rng(1).lognormal(size=(2, rows))
    columns = TickColumns(
        np.zeros(rows, np.int32), np.zeros(rows, np.uint8), time_ns, np.arange(rows), mid,
        mid - 0.005, mid + 0.005, np.ascontiguousarray(sizes[0]), np.ascontiguousarray(sizes[1]), time_ns,
    )  # fmt: skip
    parts = [columns.part(start, min(start + PART_TICKS, rows)) for start in range(0, rows, PART_TICKS)]

    def build() -> Rows:
        made = archives.compute(parts, ("BTC-USD",), [], schema, {})
        return build_rows(schema, made.ticks, made.product, made.features, made.warm, HORIZON_S, 0)[0]

    return build


def quote_rows(rows: int) -> Callable[[], Rows]:
    """A quote every five seconds."""
    time_ns, mid = made_up(rows, 5.0)
    ticks = TickSeries(time_ns, mid, np.zeros(rows, np.int64))
    product = np.zeros(rows, np.int64)

    def build() -> Rows:
        features, warm = quote_features(ticks)
        return build_rows(QUOTES_1, ticks, product, features, warm, HORIZON_S, 0)[0]

    return build


def split(rows: Rows) -> None:
    rules = SplitRules(HORIZON_S * NS_PER_S, window_s(rows.schema) * NS_PER_S, final_share=0.2, folds=FOLDS)
    for one in (final_split(rows.time_ns, rules), *walk_forward(rows.time_ns, rules)):
        leakage.check_split(rows.time_ns, one, rules)
        rows.take(one.train)
        rows.take(one.test)


def run(console: Console, rows: int = 1_000_000) -> dict[str, Any]:
    header(
        console,
        "python -m benchmarks.training",
        f"{rows:,} rows in memory to features, labels, a final part and {FOLDS} purged folds, one thread; "
        f"kernels compiled before. At most {TARGET_S:g} s on 2 cores.",
    )
    table = Table("schema", "features and labels, s", "splits, s", "together, s")
    figures: dict[str, Any] = {}
    makers: dict[str, Callable[[int], Callable[[], Rows]]] = {
        CORE_1.name: lambda count: tick_rows(count, CORE_1),
        FULL_1.name: lambda count: tick_rows(count, FULL_1),
        QUOTES_1.name: quote_rows,
    }
    for name, maker in makers.items():
        maker(5000)()
        build = maker(rows)
        began = perf_counter()
        made = build()
        built = perf_counter()
        split(made)
        done = perf_counter()
        table.add_row(name, f"{built - began:.2f}", f"{done - built:.2f}", f"{done - began:.2f}")
        figures[name] = {"rows": rows, "kept": len(made), "build_s": built - began, "split_s": done - built}
    console.print(table)
    return figures


@click.command()
@click.option("--rows", type=click.IntRange(min=100_000), default=1_000_000, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(rows: int, as_json: bool) -> None:
    """How long a million rows take; exits 1 where one schema takes longer than the target."""
    figures = run(Console(stderr=as_json), rows)
    if as_json:
        click.echo(msgspec.json.encode(figures))
    slow = [name for name, one in figures.items() if one["build_s"] + one["split_s"] > TARGET_S * rows / 1e6]
    raise SystemExit(1 if slow else 0)


if __name__ == "__main__":
    main()
