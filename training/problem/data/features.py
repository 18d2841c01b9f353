"""Feature files (Parquet) as `volcast features` and the worker write them.

A file holds no gaps, but rows turn cold after one: that is where stretches are told apart. Several gaps
within one warm-up look like one, which costs nothing, as none of those rows is used.
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
from training.problem.data.dataset import Columns, Progress, holes_between, segments_of
from training.problem.data.tables import in_order, parquet_schema
from training.problem.ticks import TickSeries

HASH_KEY = b"volcast.schema.hash"
NAME_KEY = b"volcast.schema.name"


def schema_of(path: Path) -> FeatureSchema:
    """The schema of a file's rows. Raises InputError for one that is of another version or not known."""
    metadata = parquet_schema(path).metadata or {}
    name, got = (metadata.get(key, b"").decode(errors="replace") for key in (NAME_KEY, HASH_KEY))
    known = SCHEMAS.get(name)
    if known is None:
        raise InputError(f"features {path}: expected schema {' or '.join(SCHEMAS)}, got {name or 'none'}")
    if known.hash != got:
        raise InputError(f"features {path}: expected schema {name} ({known.hash}), got one of another version ({got})")
    return known


def read(paths: Sequence[Path], schema: FeatureSchema, progress: Progress) -> Columns:
    """Raises InputError for a file that cannot be read, is of another schema, or is out of order."""
    for path in paths:
        found = schema_of(path)
        if found != schema:
            raise InputError(f"features {path}: expected schema {schema.name} ({schema.hash}), got {found.name}")
    progress(f"reading {len(paths)} feature files")
    rows = FeatureRows.joined(read_features(path) for path in _by_time(paths))
    where = str(paths[0]) if len(paths) == 1 else f"{len(paths)} feature files"
    if len(rows) == 0:
        raise InputError(f"features {where}: no rows")
    codes = ProductCodes()
    product = np.fromiter(map(codes.__getitem__, rows.product_ids), np.int64, len(rows))
    starts, later = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    for name, code in codes.items():
        mine = np.flatnonzero(product == code)
        later[mine] = in_order(f"features {where}", f"event_time_ns of {name}", rows.event_time_ns[mine], ties=True)
        kept = mine[later[mine]]
        turns_cold = rows.warm[kept][:-1] & ~rows.warm[kept][1:]
        starts[kept[1:][turns_cold]] = True
    segment = segments_of(product, starts)
    used = np.flatnonzero(later)
    used = used[np.argsort(segment[used], kind="stable")]
    ticks = TickSeries(rows.event_time_ns[used], rows.values[used, schema.names.index("midprice")], segment[used])
    names = tuple(codes.names)
    return Columns(
        schema=schema,
        products=names,
        ticks=ticks,
        product=product[used],
        features=rows.values[used],
        warm=rows.warm[used],
        counts={"ticks": len(rows), "gaps": int(np.count_nonzero(starts)), "not_later": int(np.sum(~later))},
        gaps=holes_between(ticks, product[used], names, "cold"),
    )


def _by_time(paths: Sequence[Path]) -> list[Path]:
    """Files in the order of their names, which begin with their times as the worker writes them."""
    return sorted(paths, key=lambda path: path.name)
