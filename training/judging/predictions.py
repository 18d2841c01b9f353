"""Predictions from a file: NDJSON as `volcast watch --json` prints it, or Parquet, a prediction in each row.

Columns: product_id, event_time_ns and probability (null: missing). Optional: sequence_num; model ("NAME/VERSION"), or
model_name and model_version; spike_bps; median_bps; quantiles (levels, also called quantile_levels) and quantile_bps.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import InputError
from training.problem.data.tables import parquet_columns, parquet_schema
from training.problem.row_keys import ANY_SEQUENCE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

REQUIRED = ("product_id", "event_time_ns", "probability")
_TEXTS = ("product_id", "model", "model_name", "model_version")


@dataclass(frozen=True, slots=True)
class Predictions:
    """Columns of (n,), in the file's order. NaN: missing, or not in the file."""

    product_id: tuple[str, ...]
    event_time_ns: Ints
    sequence_num: Ints  # ANY_SEQUENCE: not in the file
    probability: Floats
    model: tuple[str, ...]  # "NAME/VERSION"; empty: not in the file
    spike_bps: Floats
    median_bps: Floats
    levels: tuple[float, ...] = ()  # of the quantiles
    quantile_bps: Floats | None = None  # (n, levels); None: no quantiles

    def __len__(self) -> int:
        return len(self.event_time_ns)

    def of(self, model: str) -> Predictions:
        """The predictions of a model."""
        kept = np.flatnonzero(np.array([name == model for name in self.model], np.bool_))
        return Predictions(
            tuple(self.product_id[row] for row in kept.tolist()),
            self.event_time_ns[kept],
            self.sequence_num[kept],
            self.probability[kept],
            (model,) * len(kept),
            self.spike_bps[kept],
            self.median_bps[kept],
            self.levels,
            None if self.quantile_bps is None else self.quantile_bps[kept],
        )

    @property
    def makers(self) -> tuple[str, ...]:
        """Names of the models that made the predictions."""
        return tuple(sorted(set(self.model)))

    @property
    def sizes_bps(self) -> tuple[float, ...]:
        """The spike sizes of the predictions, ascending; empty: not in the file."""
        return tuple(np.unique(self.spike_bps[~np.isnan(self.spike_bps)]).tolist())


class _Line(msgspec.Struct):
    product_id: str
    event_time_ns: int
    probability: float | None = None
    sequence_num: int | None = None
    model: str | None = None
    model_name: str | None = None
    model_version: str | None = None
    spike_bps: float | None = None
    median_bps: float | None = None
    quantiles: tuple[float, ...] | None = None
    quantile_levels: tuple[float, ...] | None = None
    quantile_bps: tuple[float, ...] | None = None


def read_predictions(path: Path) -> Predictions:
    """Raises InputError for a file or line that cannot be read, or a value outside its range."""
    lines = _parquet(path) if path.suffix == ".parquet" else _ndjson(path)
    if not lines:
        raise InputError(f"predictions {path}: the file holds none")
    try:
        times = np.array([line.event_time_ns for line in lines], np.int64)
        sequences = np.array(
            [ANY_SEQUENCE if line.sequence_num is None else line.sequence_num for line in lines], np.int64
        )
    except OverflowError:
        raise InputError(f"predictions {path}: event_time_ns or sequence_num: expected 64 bits at most") from None
    probability = _floats([line.probability for line in lines])
    wrong = (probability < 0) | (probability > 1) | np.isinf(probability)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"predictions {path}: row {row + 1}: probability: expected a number in [0, 1], got {probability[row]:g}"
        )
    levels, quantiles = _quantiles(path, lines)
    return Predictions(
        product_id=tuple(line.product_id for line in lines),
        event_time_ns=times,
        sequence_num=sequences,
        probability=probability,
        model=tuple(line.model or _name(line.model_name, line.model_version) for line in lines),
        spike_bps=_floats([line.spike_bps or None for line in lines]),
        median_bps=_floats([line.median_bps for line in lines]),
        levels=levels,
        quantile_bps=quantiles,
    )


def _quantiles(path: Path, lines: Sequence[_Line]) -> tuple[tuple[float, ...], Floats | None]:
    """Levels and quantiles (n, levels); NaN for a line without. All lines must have the same levels."""
    distinct = {line.quantiles or line.quantile_levels or () for line in lines} - {()}
    if not distinct:
        return (), None
    if len(distinct) > 1:
        raise InputError(
            f"predictions {path}: quantiles: expected the same levels in all rows, got {sorted(distinct)[:2]}"
        )
    (levels,) = distinct
    quantiles = np.full((len(lines), len(levels)), np.nan)
    for row, line in enumerate(lines):
        if line.quantile_bps:
            if len(line.quantile_bps) != len(levels):
                raise InputError(
                    f"predictions {path}: row {row + 1}: quantile_bps: expected {len(levels)} values, a value for each "
                    f"level, got {len(line.quantile_bps)}"
                )
            quantiles[row] = line.quantile_bps
    return levels, quantiles


def _ndjson(path: Path) -> list[_Line]:
    decode = msgspec.json.Decoder(_Line).decode
    lines: list[_Line] = []
    try:
        with _open(path) as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    try:
                        lines.append(decode(text))
                    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                        raise InputError(f"predictions {path}:{number}: {error}") from None
    except (OSError, EOFError) as error:
        raise InputError(f"predictions {path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return lines


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.name.endswith(".gz") else path.open("rb")


def _parquet(path: Path) -> list[_Line]:
    known = set(_Line.__struct_fields__)
    optional = [name for name in parquet_schema(path).names if name in known and name not in REQUIRED]
    columns = parquet_columns(path, (*REQUIRED, *optional))
    try:
        values = {
            name: (column.cast(pa.string()) if name in _TEXTS else column).to_pylist()
            for name, column in columns.items()
        }
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        return msgspec.convert(rows, list[_Line])
    except (pa.ArrowException, msgspec.ValidationError) as error:
        raise InputError(f"predictions {path}: {' '.join(str(error).split())[:200]}") from None


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _name(name: str | None, version: str | None) -> str:
    return f"{name}/{version}" if name else ""
