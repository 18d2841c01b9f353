"""Joined predictions as a file, for `volcast evaluate --predictions` and whoever wants to look at them."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, UsageError
from training.monitoring.join import Joined

COLUMNS = (
    "product_id", "event_time_ns", "sequence_num", "model", "probability", "threshold", "future_volatility", "y",
)  # fmt: skip


class JoinedWriter:
    """A context: the file has its name only when it is complete; an error leaves what was there before.

    None: rows go nowhere. Raises UsageError for a name that is neither .ndjson nor .parquet, InputError where the
    disk refuses.
    """

    def __init__(self, path: Path | None) -> None:
        if path is not None and path.suffix not in (".ndjson", ".parquet"):
            raise UsageError(f"--out {path}: expected a name that ends in .ndjson or .parquet")
        self._path = path
        self._unfinished = None if path is None else path.with_name(f".{path.name}.unfinished")
        self._columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self._file: Any = None

    def write(self, joined: Joined, outcome: NDArray[np.float64]) -> None:
        """Rows and what became of them by their model's τ: 1, 0, or NaN where that is not known; (n,)."""
        if self._path is None or len(joined) == 0:
            return
        said = joined.said
        columns: dict[str, list[Any]] = {
            name: [getattr(one, name) for one in said] for name in COLUMNS if hasattr(said[0], name)
        }
        columns["future_volatility"] = joined.future_volatility.tolist()
        columns["y"] = [None if np.isnan(one) else int(one) for one in outcome.tolist()]
        if self._path.suffix == ".parquet":
            for name in COLUMNS:
                self._columns[name] += columns[name]
            return
        lines = (dict(zip(COLUMNS, row, strict=True)) for row in zip(*(columns[one] for one in COLUMNS), strict=True))
        try:
            self._file.write(b"".join(msgspec.json.encode(one) + b"\n" for one in lines))
        except OSError as error:
            raise self._refused(error) from None

    def __enter__(self) -> Self:
        if self._unfinished is not None:
            try:
                self._unfinished.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._unfinished.open("wb")
            except OSError as error:
                raise self._refused(error) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._path is None or self._unfinished is None:
            return
        try:
            if kind is None and self._path.suffix == ".parquet":
                self._write_parquet()
            self._file.close()
            if kind is None:
                self._unfinished.replace(self._path)
            else:
                self._unfinished.unlink(missing_ok=True)
        except OSError as refused:
            self._unfinished.unlink(missing_ok=True)
            raise self._refused(refused) from None

    def _write_parquet(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = (pa.string(), pa.int64(), pa.int64(), pa.string(), pa.float64(), pa.float64(), pa.float64(), pa.int8())
        schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
        pq.write_table(pa.table(self._columns, schema=schema), self._file, compression="zstd")

    def _refused(self, error: OSError) -> InputError:
        return InputError(f"{self._path}: cannot be written: {error.strerror or error}")
