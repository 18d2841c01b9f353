"""Joined predictions as a file, for `volcast evaluate --predictions`."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, UsageError
from training.monitoring.join import Joined

ANSWERED = (
    "product_id", "event_time_ns", "sequence_num", "model", "probability", "threshold", "spike_bps", "base_rate",
    "median_bps",
)  # fmt: skip
COLUMNS = (*ANSWERED, "outcome_bps", "spike")


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

    def write(self, joined: Joined, spike: NDArray[np.float64]) -> None:
        """Rows, and whether a spike of the answer's size followed: 1, 0, or NaN if the size is not known; (n,).

        The size of an old-style model is that of its label; spike_bps is 0, as in its records.
        """
        if self._path is None or len(joined) == 0:
            return
        columns: dict[str, list[Any]] = {
            name: [getattr(answer, name) for answer in joined.answers] for name in ANSWERED
        }
        columns["outcome_bps"] = joined.outcome_bps.tolist()
        columns["spike"] = [None if np.isnan(value) else bool(value) for value in spike.tolist()]
        if self._path.suffix == ".parquet":
            for name in COLUMNS:
                self._columns[name] += columns[name]
            return
        lines = (dict(zip(COLUMNS, row, strict=True)) for row in zip(*(columns[name] for name in COLUMNS), strict=True))
        try:
            self._file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
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

        types = {"product_id": pa.string(), "model": pa.string(), "spike": pa.bool_()}
        types |= dict.fromkeys(("event_time_ns", "sequence_num"), pa.int64())
        schema = pa.schema([(name, types.get(name, pa.float64())) for name in COLUMNS])
        pq.write_table(pa.table(self._columns, schema=schema), self._file, compression="zstd")

    def _refused(self, error: OSError) -> InputError:
        return InputError(f"{self._path}: cannot be written: {error.strerror or error}")
