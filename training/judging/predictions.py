"""Predictions from a file: NDJSON as `volcast watch --json` prints it, or Parquet, one prediction a row.

Columns: product_id, event_time_ns and probability (null: missing); where there are, sequence_num and model
("NAME/VERSION"), or model_name and model_version.
"""

from __future__ import annotations

import gzip
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

REQUIRED = ("product_id", "event_time_ns", "probability")


@dataclass(frozen=True, slots=True)
class Predictions:
    """Columns of (n,), in the file's order."""

    product_id: list[str]
    event_time_ns: NDArray[np.int64]
    sequence_num: NDArray[np.int64]  # ANY_SEQUENCE where the file does not say
    probability: NDArray[np.float64]  # NaN where missing
    model: list[str]  # "NAME/VERSION", empty where the file does not say

    def __len__(self) -> int:
        return len(self.event_time_ns)

    def of(self, model: str) -> Predictions:
        """Those that this model made."""
        kept = [row for row, name in enumerate(self.model) if name == model]
        return Predictions(
            [self.product_id[row] for row in kept],
            self.event_time_ns[kept],
            self.sequence_num[kept],
            self.probability[kept],
            [model] * len(kept),
        )


class _Line(msgspec.Struct):
    product_id: str
    event_time_ns: int
    probability: float | None = None
    sequence_num: int = ANY_SEQUENCE
    model: str = ""
    model_name: str = ""
    model_version: str = ""


def read_predictions(path: Path) -> Predictions:
    """Raises InputError for a file that cannot be read, a line that is none, or a probability outside [0, 1]."""
    found = _parquet(path) if path.suffix == ".parquet" else _ndjson(path)
    if len(found) == 0:
        raise InputError(f"predictions {path}: the file holds none")
    wrong = (found.probability < 0) | (found.probability > 1) | np.isinf(found.probability)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"predictions {path}: row {row + 1}: probability: expected a number in [0, 1], "
            f"got {found.probability[row]:g}"
        )
    return found


def _ndjson(path: Path) -> Predictions:
    decode = msgspec.json.Decoder(_Line).decode
    lines: list[_Line] = []
    try:
        with _open(path) as file:
            for number, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    lines.append(decode(text))
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    raise InputError(f"predictions {path}:{number}: {error}") from None
    except (OSError, EOFError) as error:
        raise InputError(f"predictions {path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        times, sequences = (np.array([getattr(one, name) for one in lines], np.int64) for name in _INTEGERS)
    except OverflowError:
        raise InputError(f"predictions {path}: event_time_ns or sequence_num: expected 64 bits at most") from None
    return Predictions(
        [one.product_id for one in lines],
        times,
        sequences,
        np.array([np.nan if one.probability is None else one.probability for one in lines], np.float64),
        [one.model or _name(one.model_name, one.model_version) for one in lines],
    )


_INTEGERS = ("event_time_ns", "sequence_num")


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.name.endswith(".gz") else path.open("rb")


def _parquet(path: Path) -> Predictions:
    names = parquet_schema(path).names
    optional = [name for name in ("sequence_num", "model", "model_name", "model_version") if name in names]
    columns = parquet_columns(path, (*REQUIRED, *optional))
    rows = len(columns["product_id"])
    texts = {name: columns[name].cast(pa.string()).to_pylist() for name in columns if name in _TEXTS}
    empty = [""] * rows
    model = texts.get("model") or [
        _name(*pair) for pair in zip(texts.get("model_name", empty), texts.get("model_version", empty), strict=True)
    ]
    try:
        times = columns["event_time_ns"].cast(pa.int64()).to_numpy(zero_copy_only=False).astype(np.int64)
        probability = columns["probability"].cast(pa.float64()).to_numpy(zero_copy_only=False)
        sequence = columns["sequence_num"].cast(pa.int64()).to_numpy() if "sequence_num" in columns else None
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"predictions {path}: {' '.join(str(error).split())[:200]}") from None
    return Predictions(
        texts["product_id"],
        times,
        np.full(rows, ANY_SEQUENCE) if sequence is None else sequence.astype(np.int64),
        np.array(probability, np.float64),
        model,
    )


_TEXTS = ("product_id", "model", "model_name", "model_version")


def _name(name: str | None, version: str | None) -> str:
    return f"{name}/{version}" if name else ""
