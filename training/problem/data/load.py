"""One loader for every kind of source."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import InputError, UsageError
from common.schema import FULL_1, SCHEMAS, FeatureSchema
from pipeline.archive import SUFFIXES as ARCHIVE_SUFFIXES
from training.problem.data import archives, features, minutes, quotes
from training.problem.data.dataset import Columns, Dataset, Progress, fingerprint
from training.problem.data.tables import parquet_schema, some_of
from training.problem.rows import Rows, build_rows, select_rows
from training.problem.schemas import MINUTES_1, QUOTES_1, window_s
from training.problem.ticks import NS_PER_S

_QUIET: Progress = lambda step: None  # noqa: E731
_PARQUET = ".parquet"
_CSV = (".csv", ".csv.gz")
_SUFFIXES = (_PARQUET, *_CSV, *ARCHIVE_SUFFIXES)


def load(
    sources: Sequence[Path],
    *,
    schema: FeatureSchema | None = None,
    horizon_s: int = 60,
    sample_period_s: int = 1,
    progress: Progress = _QUIET,
) -> Dataset:
    """Reads files of one kind into rows with labels to come.

    schema: of the rows; by default what the files hold, full/1 for recordings of ticks. sample_period_s: at
    most one row of a product in this time; 0 keeps all.

    Raises InputError where a file cannot be read, is of another kind than the first, holds nothing usable, is
    too short for a single row, or has a feature that is NaN throughout; UsageError where the schema is not one
    that the files can give.
    """
    paths = _files(sources)
    kind = kind_of(paths[0])
    for path in paths[1:]:
        if (other := kind_of(path)) != kind:
            raise InputError(f"{path}: holds {other}, but {paths[0].name} holds {kind}; load them apart")
    columns = _read(kind, paths, schema, horizon_s, progress)
    progress(f"labelling {len(columns.ticks):,} rows")
    rows, dropped = _rows(columns, horizon_s, sample_period_s)
    if len(rows) == 0:
        raise _too_short(columns, horizon_s)
    return Dataset(
        rows=rows,
        products=columns.products,
        files=tuple(sorted(path.name for path in paths)),
        sha256=fingerprint(paths),
        kind=kind,
        counts=columns.counts | dropped | {"rows": len(rows)},
        gaps=columns.gaps,
        ticks=columns.ticks,
        tick_product=columns.product,
        horizon_s=horizon_s,
        sample_period_s=sample_period_s,
        notes=_notes(rows),
    )


def find(names: Sequence[str]) -> list[Path]:
    """Files and directories by name or pattern. Raises InputError for one that names nothing."""
    found: list[Path] = []
    for name in names:
        path = Path(name).expanduser()
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            raise InputError(f"{name}: no {'file matches' if glob.has_magic(name) else 'such file'}")
        found += matches
    return found


def kind_of(path: Path) -> str:
    """ticks, features, quotes or minutes. Raises InputError for a Parquet file that is neither of its two."""
    if path.name.endswith(_CSV):
        return "minutes"
    if path.suffix != _PARQUET:
        return "ticks"
    found = parquet_schema(path)
    if features.HASH_KEY in (found.metadata or {}):
        return "features"
    if set(quotes.COLUMNS) <= set(found.names):
        return "quotes"
    raise InputError(
        f"{path}: expected a feature file (volcast features) or quotes with columns {', '.join(quotes.COLUMNS)}; "
        f"it has {some_of(found.names)}"
    )


def _files(sources: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            # Hidden files are unfinished ones (pipeline/parquet.py).
            inside = sorted(one for one in source.iterdir() if one.name.endswith(_SUFFIXES) and one.name[0] != ".")
            if not inside:
                raise InputError(f"{source}: the directory holds no data ({', '.join(_SUFFIXES)})")
            found += inside
        elif source.exists():
            found.append(source)
        else:
            raise InputError(f"{source}: no such file")
    if not found:
        raise InputError("no data was named")
    return list(dict.fromkeys(found))


def _read(
    kind: str, paths: Sequence[Path], schema: FeatureSchema | None, horizon_s: int, progress: Progress
) -> Columns:
    possible = {"quotes": (QUOTES_1,), "minutes": (MINUTES_1,)}.get(kind, tuple(SCHEMAS.values()))
    if schema is not None and schema not in possible:
        names = " or ".join(one.name for one in possible)
        raise UsageError(f"schema {schema.name}: {kind} give {names}")
    if kind == "quotes":
        return quotes.read(paths, progress)
    if kind == "minutes":
        return minutes.read(paths, horizon_s, progress)
    if kind == "features":
        return features.read(paths, schema or features.schema_of(paths[0]), progress)
    return archives.read(paths, schema or FULL_1, progress)


def _rows(columns: Columns, horizon_s: int, sample_period_s: int) -> tuple[Rows, dict[str, int]]:
    _require_numbers(columns)
    parts = (columns.schema, columns.ticks, columns.product, columns.features, columns.warm)
    if columns.volatility is not None:
        return select_rows(*parts, columns.volatility, sample_period_s)
    return build_rows(*parts, horizon_s, sample_period_s)


def _too_short(columns: Columns, horizon_s: int) -> InputError:
    ticks = columns.ticks
    longest_s = max(int(ticks.time_ns[span.stop - 1] - ticks.time_ns[span.start]) for span in ticks.spans()) / NS_PER_S
    window = window_s(columns.schema)
    return InputError(
        f"too little data: no row of {len(ticks)} can be used; one takes {window} s of unbroken data before it "
        f"({columns.schema.name}) and {horizon_s} s after it, and the longest unbroken stretch lasts {longest_s:.0f} s"
    )


def _require_numbers(columns: Columns) -> None:
    """Raises InputError for a feature that has no number in any warm row: all rows would be dropped for it."""
    warm = np.flatnonzero(columns.warm)
    if len(warm) == 0:
        return
    for number, name in enumerate(columns.schema.names):
        if not np.isfinite(columns.features[warm, number]).any():
            raise InputError(f"feature {name}: NaN or infinite in all {len(warm)} rows; expected numbers")


def _notes(rows: Rows) -> tuple[str, ...]:
    if len(rows) == 0:
        return ()
    constant = rows.features.min(axis=0) == rows.features.max(axis=0)
    return tuple(
        f"feature {name}: {rows.features[0, number]:g} in all {len(rows)} rows"
        for number, name in enumerate(rows.schema.names)
        if constant[number]
    )
