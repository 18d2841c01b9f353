"""One loader for recordings of every format and for feature files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.schema import FULL_2, FeatureSchema
from pipeline.archive import DEFAULT_OPTIONS, ReadOptions, describe
from pipeline.archive.paths import expand_name
from pipeline.features.engine import longest_ns
from training.problem.data import features, recorded
from training.problem.data.dataset import Columns, Dataset, Hole, Progress, RecordedTicks, Ticks, fingerprint
from training.problem.data.tables import MAGIC, parquet_schema
from training.problem.forecast_rows import ForecastRows, pooled
from training.problem.target import DEFAULT_TARGET, NS_PER_S, Ints, Target

# Rows of a format that lie further apart are different recordings. The longest break of a known recording is 16 days.
APART_NS = 30 * 86_400 * NS_PER_S
_QUIET: Progress = lambda step: None  # noqa: E731


def load(
    paths: Sequence[Path],
    *,
    schema: FeatureSchema | None = None,
    sample_period_s: int = 5,
    target: Target = DEFAULT_TARGET,
    options: ReadOptions = DEFAULT_OPTIONS,
    progress: Progress = _QUIET,
) -> Dataset:
    """The rows of files and folders: of each product, the first usable row in each sample_period_s; 0: all rows.

    schema: of the rows; by default that of the feature files, else full/2. options: of flat recordings. Files of
    different formats, and rows more than 30 days apart, are different recordings.

    A tick gives no row if it is (in this order)
    - not_used: it repeats the last tick or is older;
    - not_warm: the features' windows reach over a gap or the beginning of the recording;
    - not_finite: a feature is NaN or infinite;
    - outcome_unknown: the outcome's window reaches over a gap or the end of the recording;
    - thinned: an earlier row stands for its period.

    Raises InputError for a file that cannot be read, for an unknown format, or if no tick gives a row.
    """
    files = tuple(dict.fromkeys(file for path in paths for file in expand_name(str(path))))
    if not files:
        raise InputError("no data was named")
    feature_files = [file for file in files if is_feature_file(file)]
    schema = schema or (features.schema_of(feature_files[0]) if feature_files else FULL_2)
    groups = list(_groups(files, feature_files, schema, options, progress))
    progress(f"computing the outcomes of {sum(len(group.ticks) for group in groups):,} ticks")
    parts: list[tuple[ForecastRows, RecordedTicks | None]] = []
    counts = Counter[str]()
    for group in groups:
        rows = _rows(group, schema, target, sample_period_s)
        counts.update(rows.counts)
        if len(rows):
            parts += [(recording, group.recorded) for recording in _recordings(rows, group.kind)]
    if not parts:
        raise _too_short(groups, schema, target)
    parts.sort(key=lambda part: int(part[0].time_ns[0]))
    recordings, recorded_ticks = zip(*parts, strict=True)
    names = _distinct([each.recordings[0] for each in recordings])
    gaps: list[Hole] = [gap for group in groups for gap in group.gaps]
    rows = replace(pooled(recordings), recordings=names, counts=dict(counts))
    return Dataset(
        rows=rows,
        paths=files,
        sha256=fingerprint(files),
        kind="+".join(dict.fromkeys(group.kind for group in groups)),
        gaps=tuple(sorted(gaps, key=lambda gap: gap.start_ns)),
        ticks=_joined(groups, rows.products),
        target=target,
        sample_period_s=sample_period_s,
        formats=tuple(each for group in groups for each in group.formats),
        recorded=() if None in recorded_ticks else recorded_ticks,
    )


def is_feature_file(path: Path) -> bool:
    """Whether `volcast features` or the worker wrote the file. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            parquet = file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    return parquet and features.HASH_KEY in (parquet_schema(path).metadata or {})


def _groups(
    files: Sequence[Path],
    feature_files: Sequence[Path],
    schema: FeatureSchema,
    options: ReadOptions,
    progress: Progress,
) -> Iterator[Columns]:
    """The columns of the files of each kind: messages and rows are read apart."""
    others = [file for file in files if file not in set(feature_files)]
    formats = describe(others, options) if others else []
    flat = [Path(each.file) for each in formats]
    messages = [file for file in others if file not in set(flat)]
    if messages:
        yield recorded.read("ticks", messages, (), schema, options, progress)
    if flat:
        yield recorded.read("quotes", flat, formats, schema, options, progress)
    if feature_files:
        yield features.read(feature_files, schema, progress)


def _rows(group: Columns, schema: FeatureSchema, target: Target, sample_period_s: int) -> ForecastRows:
    """The usable rows of a group in time order, as a single recording without a name."""
    ticks, warm = group.ticks, group.warm
    outcome = target.outcomes_bps(ticks.time_ns, ticks.mid, ticks.segment)
    finite = np.isfinite(group.features).all(axis=1)
    known = ~np.isnan(outcome)
    usable = np.flatnonzero(warm & finite & known)
    kept = usable[first_of_period(ticks.product[usable], ticks.time_ns[usable], sample_period_s * NS_PER_S)]
    kept = kept[np.argsort(ticks.time_ns[kept], kind="stable")]
    counts = group.counts | {
        "not_warm": int(np.count_nonzero(~warm)),
        "not_finite": int(np.count_nonzero(warm & ~finite)),
        "outcome_unknown": int(np.count_nonzero(warm & finite & ~known)),
        "thinned": len(usable) - len(kept),
        "rows": len(kept),
    }
    return ForecastRows(
        schema=schema,
        time_ns=ticks.time_ns[kept],
        features=group.features[kept],
        outcome_bps=outcome[kept],
        product=ticks.product[kept],
        recording=np.zeros(len(kept), np.int64),
        products=group.products,
        recordings=("",),
        counts=counts,
    )


def _recordings(rows: ForecastRows, kind: str) -> list[ForecastRows]:
    """The rows of each recording, named by kind and first day."""
    number = np.cumsum(np.diff(rows.time_ns, prepend=rows.time_ns[0]) > APART_NS)
    parts = [rows.take(number == each) for each in range(int(number[-1]) + 1)]
    days = [datetime.fromtimestamp(int(part.time_ns[0]) // NS_PER_S, UTC).strftime("%Y-%m-%d") for part in parts]
    return [replace(part, recordings=(f"{kind} of {day}",)) for part, day in zip(parts, days, strict=True)]


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"{name} ({names[:place].count(name) + 1})" if name in names[:place] else name
        for place, name in enumerate(names)
    )


def _joined(groups: Sequence[Columns], products: tuple[str, ...]) -> Ticks:
    following, segments = 0, []
    for group in groups:
        segments.append(group.ticks.segment + following)
        following = int(segments[-1].max()) + 1
    codes = [np.array([products.index(name) for name in group.products])[group.ticks.product] for group in groups]
    return Ticks(
        time_ns=np.concatenate([group.ticks.time_ns for group in groups]),
        mid=np.concatenate([group.ticks.mid for group in groups]),
        segment=np.concatenate(segments),
        product=np.concatenate(codes),
    )


def first_of_period(product: Ints, time_ns: Ints, period_ns: int) -> NDArray[np.bool_]:
    """Marks the first of the rows (n,) in each period of its product; all rows for a period of 0.

    The rows of a product stand together, in time order.
    """
    first = np.ones(len(time_ns), np.bool_)
    if period_ns:
        period = time_ns // period_ns
        first[1:] = (np.diff(period) != 0) | (np.diff(product) != 0)
    return first


def _too_short(groups: Sequence[Columns], schema: FeatureSchema, target: Target) -> InputError:
    for group in groups:
        unknown = [
            name
            for number, name in enumerate(schema.names)
            if not np.isfinite(group.features[group.warm, number]).any()
        ]
        if group.warm.any() and unknown:
            warm = np.count_nonzero(group.warm)
            return InputError(f"feature {unknown[0]}: NaN or infinite in all {warm} rows; expected numbers")
    longest_s = max(
        float(group.ticks.time_ns[span.stop - 1] - group.ticks.time_ns[span.start]) / NS_PER_S
        for group in groups
        for span in group.ticks.spans()
    )
    return InputError(
        f"too little data: no row of {sum(len(group.ticks) for group in groups)} ticks can be used; a row needs "
        f"{longest_ns(schema) // NS_PER_S} s of unbroken data before it ({schema.name}) and "
        f"{target.reach_ns // NS_PER_S} s after it, and the longest unbroken stretch lasts {longest_s:.0f} s"
    )
