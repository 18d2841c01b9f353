"""The data of a run on disk: every row, and the forecasts of every test part. All numbers come back bit for bit.

rows.parquet        every row: time, product, recording, outcome and features
forecasts.parquet   of each row of each test part, its place in rows.parquet, and location and scale of each kind
parts.json          names of products and recordings; of each part and kind, levels and knots; base rates
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.bundle import Survival
from common.errors import InputError
from common.schema import SCHEMAS, FeatureSchema
from training.forecasting.distribution import LocationScale
from training.forecasting.parts import ForecastPart
from training.problem.forecast_rows import ForecastRows

ROWS_FILE, FORECASTS_FILE, PARTS_FILE = "rows.parquet", "forecasts.parquet", "parts.json"
_FEATURE, _LOCATION, _SCALE = "f:", "location:", "scale:"  # prefixes of columns


@dataclass(frozen=True, slots=True)
class Evidence:
    """rows: every row. parts: test parts in time order; the last is the final part."""

    rows: ForecastRows
    parts: tuple[ForecastPart, ...]


class _Residual(msgspec.Struct, frozen=True):
    levels: tuple[float, ...]
    knots: tuple[float, ...]
    floor_bps: float


class _Part(msgspec.Struct, frozen=True):
    name: str
    rows: int
    kinds: dict[str, _Residual]
    sizes: Survival
    multiples: Survival | None
    trained_until_ns: dict[int, int]


class _Parts(msgspec.Struct, frozen=True):
    products: tuple[str, ...]
    recordings: tuple[str, ...]
    counts: dict[str, int]
    parts: tuple[_Part, ...]


def write(folder: Path, evidence: Evidence) -> None:
    """Raises OSError if the disk refuses, ValueError if a part has a row that is not among all rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    rows = evidence.rows
    columns: dict[str, NDArray[Any]] = {
        "time_ns": rows.time_ns,
        "product": rows.product,
        "recording": rows.recording,
        "outcome_bps": rows.outcome_bps,
        **{f"{_FEATURE}{name}": rows.features[:, number] for number, name in enumerate(rows.schema.names)},
    }
    pq.write_table(pa.table(columns), folder / ROWS_FILE, compression="zstd")
    tables = [pa.table(_forecasts(part, places_of(rows, part.rows))) for part in evidence.parts]
    if tables:
        forecasts = pa.concat_tables(tables, promote_options="default")
        pq.write_table(forecasts, folder / FORECASTS_FILE, compression="zstd")
    described = _Parts(rows.products, rows.recordings, dict(rows.counts), tuple(map(_described, evidence.parts)))
    (folder / PARTS_FILE).write_bytes(msgspec.json.encode(described) + b"\n")


def read(folder: Path, schema: FeatureSchema) -> Evidence:
    """Raises InputError if the files are missing, damaged or of another schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        described = msgspec.json.decode((folder / PARTS_FILE).read_bytes(), type=_Parts)
        rows = _rows(pq.read_table(folder / ROWS_FILE), schema, described)
        if not described.parts:
            raise ValueError("there is no test part")
        forecasts = pq.read_table(folder / FORECASTS_FILE)
        stops = np.cumsum([part.rows for part in described.parts]).tolist()
        if stops[-1] != len(forecasts):
            raise ValueError(f"expected forecasts of {stops[-1]} rows, got {len(forecasts)}")
        tables = [
            forecasts.slice(stop - part.rows, part.rows) for part, stop in zip(described.parts, stops, strict=True)
        ]
        return Evidence(rows, tuple(map(_part, described.parts, tables, [rows] * len(tables))))
    except (OSError, pa.ArrowException, msgspec.DecodeError, KeyError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"run {folder.parent}: evidence cannot be read: {reason}") from None


def places_of(rows: ForecastRows, some: ForecastRows) -> NDArray[np.int64]:
    """The place of each of some rows among all rows, (some rows,). Raises ValueError if a row is not among them."""
    times = np.unique(rows.time_ns)

    def keys(given: ForecastRows) -> NDArray[np.int64]:
        series = given.recording * len(rows.products) + given.product
        return np.asarray(series * (len(times) + 1) + np.searchsorted(times, given.time_ns), dtype=np.int64)

    all_keys, wanted = keys(rows), keys(some)
    order, wanted_order = (np.argsort(each, kind="stable") for each in (all_keys, wanted))
    ascending = wanted[wanted_order]
    # Rows may share a time: the first of such rows has the first place.
    repeat = np.arange(len(some)) - np.searchsorted(ascending, ascending)
    nearest = np.minimum(np.searchsorted(all_keys[order], ascending) + repeat, len(rows) - 1)
    places = np.empty(len(some), np.int64)
    places[wanted_order] = order[nearest]
    kept = rows.take(places)
    for name in ("time_ns", "product", "recording", "outcome_bps", "features"):
        if not np.array_equal(getattr(kept, name), getattr(some, name)):
            raise ValueError(f"a test part has rows that are not among all rows: {name} differs")
    return places


def _forecasts(part: ForecastPart, places: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return {
        "row": places,
        **{f"{_LOCATION}{kind}": forecasts.location for kind, forecasts in part.forecasts.items()},
        **{f"{_SCALE}{kind}": forecasts.scale for kind, forecasts in part.forecasts.items()},
    }


def _described(part: ForecastPart) -> _Part:
    kinds = {
        kind: _Residual(tuple(each.levels.tolist()), tuple(each.knots.tolist()), each.floor_bps)
        for kind, each in part.forecasts.items()
    }
    return _Part(part.name, len(part), kinds, part.sizes, part.multiples, dict(part.trained_until_ns))


def _rows(table: Any, schema: FeatureSchema, described: _Parts) -> ForecastRows:
    known = SCHEMAS.get(schema.name)
    return ForecastRows(
        schema=known if known is not None and known.hash == schema.hash else schema,
        time_ns=_column(table, "time_ns", np.int64),
        features=np.column_stack([_column(table, f"{_FEATURE}{name}", np.float64) for name in schema.names]),
        outcome_bps=_column(table, "outcome_bps", np.float64),
        product=_column(table, "product", np.int64),
        recording=_column(table, "recording", np.int64),
        products=described.products,
        recordings=described.recordings,
        counts=described.counts,
    )


def _part(part: _Part, table: Any, rows: ForecastRows) -> ForecastPart:
    forecasts: Mapping[str, LocationScale] = {
        kind: LocationScale(
            _column(table, f"{_LOCATION}{kind}", np.float64),
            _column(table, f"{_SCALE}{kind}", np.float64),
            np.array(residual.levels),
            np.array(residual.knots),
            residual.floor_bps,
        )
        for kind, residual in part.kinds.items()
    }
    places = _column(table, "row", np.int64)
    return ForecastPart(part.name, rows.take(places), forecasts, part.sizes, part.multiples, part.trained_until_ns)


def _column(table: Any, name: str, dtype: Any) -> NDArray[Any]:
    return np.ascontiguousarray(table[name].to_numpy(), dtype=dtype)
