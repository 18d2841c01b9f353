"""Feature files (Parquet) as `volcast features` and the worker write them.

A file holds no gaps, but rows turn cold after a gap, so a segment begins at a row that turns cold. Several gaps within
a warm-up look like a single gap. That costs nothing, as no such row is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.schema import SCHEMAS, FeatureSchema
from pipeline.features.columns import ProductCodes
from pipeline.features.table import FeatureRows
from pipeline.parquet import read_features
from training.problem.data.dataset import Columns, Progress, Ticks, holes_between, segments_of
from training.problem.data.tables import in_order, parquet_schema

HASH_KEY = b"volcast.schema.hash"
NAME_KEY = b"volcast.schema.name"


def schema_of(path: Path) -> FeatureSchema:
    """The schema of a file's rows. Raises InputError if it is not known, or has another version."""
    metadata = parquet_schema(path).metadata or {}
    name, got = (metadata.get(key, b"").decode(errors="replace") for key in (NAME_KEY, HASH_KEY))
    known = SCHEMAS.get(name)
    if known is None:
        raise InputError(f"features {path}: expected schema {' or '.join(SCHEMAS)}, got {name or 'none'}")
    if known.hash != got:
        raise InputError(f"features {path}: expected schema {name} ({known.hash}), got one of another version ({got})")
    return known


def read(paths: Sequence[Path], schema: FeatureSchema, progress: Progress) -> Columns:
    """Raises InputError for a file that cannot be read, has another schema, or is out of order."""
    for path in paths:
        of_file = schema_of(path)
        if of_file != schema:
            raise InputError(f"features {path}: expected schema {schema.name} ({schema.hash}), got {of_file.name}")
    progress(f"reading {len(paths)} feature files")
    rows = FeatureRows.joined(read_features(path) for path in _by_time(paths))
    place = str(paths[0]) if len(paths) == 1 else f"{len(paths)} feature files"
    if len(rows) == 0:
        raise InputError(f"features {place}: no rows")
    codes = ProductCodes()
    product = np.fromiter(map(codes.__getitem__, rows.product_ids), np.int64, len(rows))
    starts, later = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    for name, code in codes.items():
        places = np.flatnonzero(product == code)
        later[places] = in_order(f"features {place}", f"event_time_ns of {name}", rows.event_time_ns[places])
        kept = places[later[places]]
        turns_cold = rows.warm[kept][:-1] & ~rows.warm[kept][1:]
        starts[kept[1:][turns_cold]] = True
    segment = segments_of(product, starts)
    used = np.flatnonzero(later)
    used = used[np.argsort(segment[used], kind="stable")]
    mid = rows.values[used, schema.names.index("midprice")]
    ticks = Ticks(rows.event_time_ns[used], mid, segment[used], product[used])
    names = tuple(codes.names)
    return Columns(
        kind="features",
        products=names,
        ticks=ticks,
        features=rows.values[used],
        warm=rows.warm[used],
        counts={"ticks": len(rows), "gaps": int(np.count_nonzero(starts)), "not_later": int(np.sum(~later))},
        gaps=holes_between(ticks, names, {}, "cold"),
    )


def _by_time(paths: Sequence[Path]) -> list[Path]:
    """Files in the order of their names: those of the worker begin with their times."""
    return sorted(paths, key=lambda path: path.name)
