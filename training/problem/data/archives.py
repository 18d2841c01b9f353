"""Recordings of the exchange's messages (NDJSON), through the same decoder and engine as the live path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.schema import FeatureSchema
from pipeline.archive import read_archive
from pipeline.features.columns import GAP, ProductCodes, TickColumns
from pipeline.features.engine import FeatureEngine, Status
from pipeline.records import DeadLetter, Gap, LateTick, Record, Tick
from training.problem.data.dataset import Columns, Progress, holes_between, segments_of
from training.problem.ticks import TickSeries

CHUNK_RECORDS = 65_536


def read(paths: Sequence[Path], schema: FeatureSchema, progress: Progress) -> Columns:
    """Raises InputError for a file that cannot be read, or where the files hold no tick."""
    records, counts = _read_records(paths, progress)
    codes = ProductCodes()
    parts = [
        TickColumns.from_records(records[start : start + CHUNK_RECORDS], codes)
        for start in range(0, len(records), CHUNK_RECORDS)
    ]
    reasons = [record.reason for record in records if isinstance(record, Gap)]
    progress(f"computing {schema.name} for {counts['ticks']:,} ticks")
    return compute(parts, tuple(codes.names), reasons, schema, counts)


def compute(
    parts: Sequence[TickColumns],
    products: tuple[str, ...],
    gap_reasons: Sequence[str],
    schema: FeatureSchema,
    counts: dict[str, int],
) -> Columns:
    """Features for ticks that came in these parts; gap_reasons (gaps,) say why each gap among them is there."""
    engine = FeatureEngine(schema)
    batches = [engine.update(part) for part in parts]
    status = np.concatenate([batch.status for batch in batches])
    product = np.concatenate([part.product for part in parts]).astype(np.int64)
    gap = np.concatenate([part.kind for part in parts]) == GAP
    segment = segments_of(product, gap)
    used = np.flatnonzero(status == Status.OK)
    used = used[np.argsort(segment[used], kind="stable")]
    unused = {
        f"unused_{which.name.lower()}": int(np.count_nonzero(status == which))
        for which in (Status.JUMPED_BACK, Status.REPEATED)
    }
    time_ns = np.concatenate([part.event_time_ns for part in parts])[used]
    mid = np.concatenate([(part.bid + part.ask) / 2 for part in parts])[used]
    ticks = TickSeries(time_ns, mid, segment[used])
    reasons = dict(zip(segment[gap].tolist(), gap_reasons, strict=True))
    return Columns(
        schema=schema,
        products=products,
        ticks=ticks,
        product=product[used],
        features=_gathered([batch.values for batch in batches], used),
        warm=np.concatenate([batch.warm for batch in batches])[used],
        counts=counts | unused,
        gaps=holes_between(ticks, product[used], products, reasons),
    )


def _gathered(values: Sequence[NDArray[np.float64]], used: NDArray[np.int64]) -> NDArray[np.float64]:
    whole = values[0] if len(values) == 1 else np.concatenate(values)
    in_order = len(used) == len(whole) and bool(np.all(np.diff(used) == 1))
    return whole if in_order else whole[used]


def _read_records(paths: Sequence[Path], progress: Progress) -> tuple[list[Record], dict[str, int]]:
    records: list[Record] = []
    refused: Counter[str] = Counter()
    example = ""
    for record in read_archive(paths):
        match record:
            case Tick() | Gap():
                records.append(record)
                if len(records) % CHUNK_RECORDS == 0:
                    progress(f"reading {len(paths)} recordings: {len(records):,} ticks")
            case LateTick():
                refused[f"late_{record.reason}"] += 1
            case DeadLetter():
                refused[f"dead_{record.reason}"] += 1
                example = example or f"; the first line that is none: {record.source}: {record.detail}"
    ticks = sum(isinstance(record, Tick) for record in records)
    if ticks == 0:
        raise InputError(f"no tick in {', '.join(str(path) for path in paths)}{example}")
    return records, {"ticks": ticks, "gaps": len(records) - ticks, **dict(sorted(refused.items()))}
