"""Recordings of every format, through the reader and the engine of the live path.

So a row has the same bits as a row that is served live. Polled quotes and mids are ticks of unknown quantities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.schema import FeatureSchema
from pipeline.archive import ReadOptions, RecordingFormat, read_archive
from pipeline.archive.reader import explain_unknown
from pipeline.features.columns import GAP, ProductCodes, TickColumns
from pipeline.features.engine import FeatureEngine, Status
from pipeline.records import DeadLetter, Gap, LateTick, Record, Tick
from training.problem.data.dataset import Columns, Progress, RecordedTicks, Ticks, holes_between, segments_of

PROGRESS_RECORDS = 100_000


def read(
    kind: str,
    paths: Sequence[Path],
    formats: Sequence[RecordingFormat],
    schema: FeatureSchema,
    options: ReadOptions,
    progress: Progress,
) -> Columns:
    """Raises InputError for a file that cannot be read, or if the files hold no tick."""
    records, counts = _records(paths, options, progress)
    progress(f"computing {schema.name} for {counts['ticks']:,} {kind}")
    codes = ProductCodes()
    columns = TickColumns.from_records(records, codes)
    batch = FeatureEngine(schema).update(columns)
    product, gap = columns.product.astype(np.int64), columns.kind == GAP
    segment = segments_of(product, gap)
    used = np.flatnonzero(batch.status == Status.OK)
    # Products may alternate, so the ticks are put into the order of segments.
    used = used[np.argsort(segment[used], kind="stable")]
    mid = (columns.bid[used] + columns.ask[used]) / 2
    ticks = Ticks(columns.event_time_ns[used], mid, segment[used], product[used])
    reasons = dict(zip(segment[gap].tolist(), (each.reason for each in records if isinstance(each, Gap)), strict=True))
    products = tuple(codes.names)
    return Columns(
        kind=kind,
        products=products,
        ticks=ticks,
        features=batch.values[used],
        warm=batch.warm[used],
        counts=counts | {"not_used": counts["ticks"] - len(used)},
        gaps=holes_between(ticks, products, reasons, "reconnect"),
        formats=tuple(formats),
        recorded=RecordedTicks(columns, products),
    )


def _records(paths: Sequence[Path], options: ReadOptions, progress: Progress) -> tuple[list[Record], dict[str, int]]:
    records: list[Record] = []
    refused: Counter[str] = Counter()
    first_dead: DeadLetter | None = None
    for record in read_archive(paths, options):
        match record:
            case Tick() | Gap():
                records.append(record)
                if len(records) % PROGRESS_RECORDS == 0:
                    progress(f"reading {len(paths)} recordings: {len(records):,} ticks")
            case LateTick():
                refused[f"late_{record.reason}"] += 1
            case DeadLetter():
                refused[f"dead_{record.reason}"] += 1
                first_dead = first_dead or record
    ticks = sum(isinstance(record, Tick) for record in records)
    if not ticks:
        names = ", ".join(map(str, paths))
        raise InputError(f"no tick in {names}: {explain_unknown(paths[0], first_dead, options)}")
    return records, {"ticks": ticks, "gaps": len(records) - ticks, **dict(sorted(refused.items()))}
