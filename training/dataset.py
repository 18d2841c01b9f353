"""Reads archives into rows, through the same decoder and feature engine as the live path."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from pipeline.archive import read_archive
from pipeline.features.columns import GAP, ProductCodes, TickColumns
from pipeline.features.engine import FeatureEngine, Status
from pipeline.records import DeadLetter, Gap, LateTick, Record, Tick
from training.rows import Rows, build_rows
from training.ticks import TickSeries

CHUNK_RECORDS = 65_536


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows to learn from, where they came from and what was left out on the way."""

    rows: Rows
    products: tuple[str, ...]
    files: tuple[str, ...]  # names, without folders
    sha256: str  # of the files' names and bytes
    counts: dict[str, int]  # ticks and gaps read, records and rows dropped by reason, rows kept


def read_dataset(paths: Sequence[Path], horizon_s: int, sample_period_s: int) -> Dataset:
    """Raises InputError for a file that cannot be read, or where the files hold no tick."""
    records, counts = _read_records(paths)
    codes = ProductCodes()
    ticks, product, features, warm, unused = _compute(records, codes)
    rows, dropped = build_rows(ticks, product, features, warm, horizon_s, sample_period_s)
    counts |= unused | dropped | {"rows": len(rows)}
    return Dataset(rows, tuple(codes.names), tuple(sorted(path.name for path in paths)), _sha256(paths), counts)


def _read_records(paths: Sequence[Path]) -> tuple[list[Record], dict[str, int]]:
    records: list[Record] = []
    refused: Counter[str] = Counter()
    example = ""
    for record in read_archive(paths):
        match record:
            case Tick() | Gap():
                records.append(record)
            case LateTick():
                refused[f"late_{record.reason}"] += 1
            case DeadLetter():
                refused[f"dead_{record.reason}"] += 1
                example = example or f"; the first line that is none: {record.source}: {record.detail}"
    ticks = sum(isinstance(record, Tick) for record in records)
    if ticks == 0:
        raise InputError(f"no tick in {', '.join(str(path) for path in paths)}{example}")
    return records, {"ticks": ticks, "gaps": len(records) - ticks, **dict(sorted(refused.items()))}


def _compute(
    records: Sequence[Record], codes: ProductCodes
) -> tuple[TickSeries, NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_], dict[str, int]]:
    """Ticks that the engine uses, ordered segment by segment, with product, features and warmth beside them."""
    engine = FeatureEngine()
    chunks = []
    for start in range(0, len(records), CHUNK_RECORDS):
        columns = TickColumns.from_records(records[start : start + CHUNK_RECORDS], codes)
        batch = engine.update(columns)
        mid = (columns.bid + columns.ask) / 2
        chunks.append(
            (columns.product, columns.kind, columns.event_time_ns, mid, batch.status, batch.warm, batch.values)
        )
    product, kind, time_ns, mid, status, warm, values = (np.concatenate(column) for column in zip(*chunks, strict=True))
    segment = _segments(product.astype(np.int64), kind == GAP)
    used = np.flatnonzero(status == Status.OK)
    used = used[np.argsort(segment[used], kind="stable")]
    unused = {
        f"unused_{which.name.lower()}": int(np.count_nonzero(status == which))
        for which in (Status.JUMPED_BACK, Status.REPEATED)
    }
    series = TickSeries(time_ns[used], mid[used], segment[used])
    return series, product[used].astype(np.int64), values[used], warm[used], unused


def _segments(product: NDArray[np.int64], gap: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Numbers the unbroken stretches: product by product, and in time order within a product; (records,)."""
    segment = np.empty(len(product), np.int64)
    following = 0
    for code in np.unique(product):
        mine = product == code
        segment[mine] = following + np.cumsum(gap[mine])
        following = int(segment[mine].max()) + 1
    return segment


def _sha256(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda one: one.name):
        digest.update(f"{path.name}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
