"""Recordings as rows to learn from: features of the project's own engine, and the outcome after each row.

Every recording passes through the reader and the engine of the live path, so a row has the same bits as a row served
live. Polled quotes and mids are ticks of unknown quantities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.schema import FULL_2, FeatureSchema
from pipeline.archive import ReadOptions, read_archive
from pipeline.datasets import coinbase_ticker_2025, data_dir
from pipeline.features.columns import GAP, ProductCodes, TickColumns
from pipeline.features.engine import FeatureEngine, Status
from pipeline.records import DeadLetter, Gap, LateTick, Record, Tick
from training.problem.target import NS_PER_S, Floats, Ints, Target

# Quotes are polled every 5 s and mids every second. A longer silence ends an unbroken stretch: no return spans it.
POLL_SILENCE_S = 30
DEFAULT_TARGET = Target()


@dataclass(frozen=True, slots=True)
class Recording:
    """Files that belong together. name: of reports, such as "quotes 2021"."""

    name: str
    files: tuple[Path, ...]
    polled_product: str = ""  # of polled quotes; "": the files are archives of messages

    def options(self) -> ReadOptions:
        if not self.polled_product:
            return ReadOptions()
        return ReadOptions({"time": "ts_utc"}, self.polled_product, POLL_SILENCE_S * NS_PER_S)


@dataclass(frozen=True, slots=True)
class ForecastRows:
    """Rows (n,) or (n, features), recording after recording and in time order within a recording."""

    schema: FeatureSchema
    time_ns: Ints
    features: Floats  # in the schema's order and units
    outcome_bps: Floats
    product: Ints  # number in `products`
    recording: Ints  # number in `recordings`
    products: tuple[str, ...]
    recordings: tuple[str, ...]
    counts: Mapping[str, int] = field(default_factory=dict)  # ticks read, rows dropped by reason, rows kept

    def __len__(self) -> int:
        return len(self.time_ns)

    def take(self, which: NDArray[np.int64] | NDArray[np.bool_] | slice) -> ForecastRows:
        """The rows at these places."""
        columns = ("time_ns", "features", "outcome_bps", "product", "recording")
        return replace(self, **{name: getattr(self, name)[which] for name in columns})


def known_recordings() -> tuple[Recording, ...]:
    """The four recordings of the shared data that are on this machine."""
    root = data_dir()
    if root is None:
        return ()
    recordings = (
        Recording("quotes 2021", (root / "btc_quotes_5s_2021.parquet",), "BTC-USD"),
        Recording("mids of December", (root / "btc_mids_1s_dydx_202512.parquet",), "BTC-USD"),
        Recording("perpetual of November", (root / "btc_quotes_1s_usdm_20251130.parquet",), "BTCUSDT"),
        Recording("ticks of December", tuple(coinbase_ticker_2025())),
    )
    return tuple(each for each in recordings if each.files and all(file.exists() for file in each.files))


def read_recording(
    recording: Recording,
    schema: FeatureSchema = FULL_2,
    sample_period_s: int = 5,
    target: Target = DEFAULT_TARGET,
) -> ForecastRows:
    """The rows of a recording: of each product, the first usable row in every period of sample_period_s; 0: all rows.

    A tick gives no row if it is (in this order)
    - not_warm: the engine's windows reach over a gap or the beginning of the recording;
    - not_finite: a feature is NaN or infinite;
    - outcome_unknown: the outcome's window reaches over a gap or the end of the recording;
    - thinned: an earlier row stands for its period.

    Raises InputError for a file that cannot be read, or if no tick gives a row.
    """
    columns, products, counts = _ticks(recording)
    batch = FeatureEngine(schema).update(columns)
    used = batch.status == Status.OK
    segment = _segments(columns)
    # Products may alternate, so the ticks are put into the order of segments, which are in time order within a product.
    order = np.flatnonzero(used)[np.argsort(segment[used], kind="stable")]
    mid = (columns.bid[order] + columns.ask[order]) / 2
    time_ns, product = columns.event_time_ns[order], columns.product[order].astype(np.int64)
    values, warm = batch.values[order], batch.warm[order]
    outcome = target.outcomes_bps(time_ns, mid, segment[order])
    finite = np.isfinite(values).all(axis=1)
    known = ~np.isnan(outcome)
    usable = np.flatnonzero(warm & finite & known)
    kept = usable[_first_of_period(product[usable], time_ns[usable], sample_period_s * NS_PER_S)]
    kept = kept[np.argsort(time_ns[kept], kind="stable")]
    counts |= {
        "not_used": int(np.count_nonzero((columns.kind != GAP) & ~used)),
        "not_warm": int(np.count_nonzero(~warm)),
        "not_finite": int(np.count_nonzero(warm & ~finite)),
        "outcome_unknown": int(np.count_nonzero(warm & finite & ~known)),
        "thinned": len(usable) - len(kept),
        "rows": len(kept),
    }
    if not len(kept):
        raise InputError(f"recording {recording.name}: no row of {counts['ticks']} ticks can be used ({counts})")
    return ForecastRows(
        schema=schema,
        time_ns=time_ns[kept],
        features=values[kept],
        outcome_bps=outcome[kept],
        product=product[kept],
        recording=np.zeros(len(kept), np.int64),
        products=products,
        recordings=(recording.name,),
        counts=counts,
    )


def pooled(parts: Sequence[ForecastRows]) -> ForecastRows:
    """The rows of several recordings, one after another. Raises ValueError for no part or different schemas."""
    if len({part.schema.hash for part in parts}) != 1:
        raise ValueError("pooled: expected rows of one schema")
    products = tuple(dict.fromkeys(name for part in parts for name in part.products))
    recordings = tuple(name for part in parts for name in part.recordings)
    starts = np.cumsum([0, *(len(part.recordings) for part in parts)])
    code_of = [np.array([products.index(name) for name in part.products]) for part in parts]
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.counts)
    return ForecastRows(
        schema=parts[0].schema,
        time_ns=np.concatenate([part.time_ns for part in parts]),
        features=np.concatenate([part.features for part in parts]),
        outcome_bps=np.concatenate([part.outcome_bps for part in parts]),
        product=np.concatenate([codes[part.product] for codes, part in zip(code_of, parts, strict=True)]),
        recording=np.concatenate([part.recording + start for part, start in zip(parts, starts, strict=False)]),
        products=products,
        recordings=recordings,
        counts=dict(counts),
    )


def _ticks(recording: Recording) -> tuple[TickColumns, tuple[str, ...], dict[str, int]]:
    records: list[Record] = []
    refused: Counter[str] = Counter()
    for record in read_archive(recording.files, recording.options()):
        match record:
            case Tick() | Gap():
                records.append(record)
            case LateTick():
                refused[f"late_{record.reason}"] += 1
            case DeadLetter():
                refused[f"dead_{record.reason}"] += 1
    codes = ProductCodes()
    columns = TickColumns.from_records(records, codes)
    ticks = int(np.count_nonzero(columns.kind != GAP))
    if not ticks:
        raise InputError(f"recording {recording.name}: no tick in {', '.join(str(file) for file in recording.files)}")
    return columns, tuple(codes.names), {"ticks": ticks, "gaps": len(columns) - ticks, **dict(sorted(refused.items()))}


def _segments(columns: TickColumns) -> Ints:
    """Numbers the unbroken stretches (n,), product by product and in time order within a product."""
    segment = np.empty(len(columns), np.int64)
    following = 0
    for code in np.unique(columns.product):
        places = columns.product == code
        segment[places] = following + np.cumsum(columns.kind[places] == GAP)
        following = int(segment[places].max()) + 1
    return segment


def _first_of_period(product: Ints, time_ns: Ints, period_ns: int) -> NDArray[np.bool_]:
    """Marks the first of the rows (n,) in each period of its product. Rows are in time order within a product."""
    first = np.ones(len(time_ns), np.bool_)
    if period_ns:
        period = time_ns // period_ns
        first[1:] = (np.diff(period) != 0) | (np.diff(product) != 0)
    return first
