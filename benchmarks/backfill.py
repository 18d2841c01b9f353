"""Features of recordings in ticks per second, one process: from columns, and from .ndjson.gz.

- `columns to rows` is the engine; `columns to Parquet` writes the file as well.
- `decoder alone` decodes messages that are in memory; `.gz to Parquet` is all that `volcast features` does with a
  recording of the same messages: unzip, split, decode, columns, engine, Parquet.
"""

from __future__ import annotations

import gzip
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.features import market
from benchmarks.machine import header, machine
from common.schema import CORE_1, FULL_1, FeatureSchema
from pipeline.archive import read_archive
from pipeline.features.columns import TickColumns
from pipeline.features.engine import FeatureEngine
from pipeline.features.table import FeatureCounts, feature_chunks
from pipeline.feed.coinbase import CoinbaseDecoder
from pipeline.feed.rfc3339 import format_ns
from pipeline.parquet import FeatureParquetWriter

MESSAGES = 200_000
TICKS = 400_000
CHUNK = 65_536
REPEATS = 3


def run(console: Console) -> dict[str, Any]:
    """Prints the table and gives its figures in ticks per second of wall time, best of the rounds."""
    header(console, "volcast bench backfill", f"wall time, best of {REPEATS} rounds, one process")
    figures: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "features.parquet"
        ticks = market(TICKS, 20.0)
        for schema in (CORE_1, FULL_1):
            FeatureEngine(schema).compile()
            figures[f"{schema.name}: columns to rows"] = _rate(TICKS, partial(_rows, ticks, schema, None))
            figures[f"{schema.name}: columns to Parquet"] = _rate(TICKS, partial(_rows, ticks, schema, out))
        messages = _messages()
        recording = Path(folder) / "recording.ndjson.gz"
        recording.write_bytes(gzip.compress(b"".join(raw + b"\n" for raw in messages), 6))
        figures["decoder alone"] = _rate(MESSAGES, lambda: _decode(messages))
        figures[".gz to records"] = _rate(MESSAGES, lambda: _read(recording))
        figures["core/1: .gz to Parquet"] = _rate(MESSAGES, lambda: _convert(recording, out))
    figures["times of the decoder alone"] = figures["decoder alone"] / figures["core/1: .gz to Parquet"]
    table = Table("", "ticks/s")
    for name, value in list(figures.items())[1:-1]:
        table.add_row(name, f"{value:,.0f}")
    table.add_row(".gz to Parquet takes, times the decoder alone", f"{figures['times of the decoder alone']:.2f}")
    console.print(table)
    return figures


def _rate(count: int, work: Callable[[], object]) -> float:
    best_s = float("inf")
    for _ in range(REPEATS):
        began_s = time.perf_counter()
        work()
        best_s = min(best_s, time.perf_counter() - began_s)
    return count / best_s


def _rows(ticks: TickColumns, schema: FeatureSchema, out: Path | None) -> None:
    engine = FeatureEngine(schema)
    writer = FeatureParquetWriter(out, schema=schema) if out else None
    for start in range(0, len(ticks), CHUNK):
        part = ticks.part(start, min(start + CHUNK, len(ticks)))
        batch = engine.update(part)
        if writer is not None:
            writer.write(["BTC-USD"] * len(part), part, batch.values, batch.warm)
    if writer is not None:
        writer.close()


def _messages() -> list[bytes]:
    """As Coinbase sends them: about 460 bytes."""
    ticks = market(MESSAGES, 20.0, seed=2)
    columns = (ticks.event_time_ns, ticks.bid, ticks.ask, ticks.bid_quantity, ticks.ask_quantity)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        _MESSAGE % (format_ns(at_ns).encode(), number, bid, bid, ask, bid_quantity, ask_quantity)
        for number, (at_ns, bid, ask, bid_quantity, ask_quantity) in enumerate(rows)
    ]


_MESSAGE = (
    b'{"channel":"ticker","client_id":"","timestamp":"%b","sequence_num":%d,"events":[{"type":"update","tickers":'
    b'[{"type":"ticker","product_id":"BTC-USD","price":"%.2f","volume_24_h":"3057.53218222","low_24_h":"66600",'
    b'"high_24_h":"67812","low_52_w":"60001","high_52_w":"126296","price_percent_chg_24_h":"0.10290969140446",'
    b'"best_bid":"%.2f","best_ask":"%.2f","best_bid_quantity":"%.8f","best_ask_quantity":"%.8f"}]}]}'
)


def _decode(messages: list[bytes]) -> None:
    decoder = CoinbaseDecoder()
    for raw in messages:
        decoder.decode(raw, 0, "bench")


def _read(recording: Path) -> None:
    for _ in read_archive([recording]):
        pass


def _convert(recording: Path, out: Path) -> None:
    with FeatureParquetWriter(out) as writer:
        for chunk in feature_chunks(read_archive([recording]), FeatureCounts(), 8192):
            writer.write(chunk.rows.product_ids, chunk.rows, chunk.rows.values, chunk.rows.warm)
