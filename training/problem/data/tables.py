"""Shared by the readers of tables: opening Parquet, and the order of rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.errors import InputError

# A few rows out of order are a recorder's hiccup, and are dropped as the live path drops them. More are a
# file that was never sorted, of which little would be left.
MOST_OUT_OF_ORDER = 0.01
MAGIC = b"PAR1"  # at both ends of a Parquet file
NAMED = 6  # columns that a message tells of a file that has others than are needed


def parquet_schema(path: Path) -> Any:
    """Raises InputError for a file that cannot be read or is no complete Parquet file."""
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise incomplete(path, error) from None


def parquet_columns(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Columns by name, as Arrow arrays in one piece. Raises InputError, naming a column that is missing or damaged."""
    schema = parquet_schema(path)
    for name in names:
        if name not in schema.names:
            raise InputError(f"{path}: no column {name}; it has {some_of(schema.names)}")
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return {name: _column(path, file, name) for name in names}


def _column(path: Path, file: Any, name: str) -> Any:
    try:
        return file.read([name]).combine_chunks()[name]
    except (OSError, pa.ArrowException) as error:
        raise damaged(f"{path}: {name}", error) from None


def some_of(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more or "no columns"


def in_order(where: str, name: str, time_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Marks the rows that are not earlier than a row before them, (n,).

    Raises InputError if more than one in a hundred are earlier.
    """
    good = np.ones(len(time_ns), np.bool_)
    good[1:] = time_ns[1:] >= np.maximum.accumulate(time_ns)[:-1]
    bad = len(time_ns) - int(np.count_nonzero(good))
    if bad > MOST_OUT_OF_ORDER * len(time_ns):
        first = int(np.flatnonzero(~good)[0])
        raise InputError(
            f"{where}: {name}: {bad} of {len(time_ns)} times are earlier than a time before them, the first in row "
            f"{first + 1}; expected rows in time order"
        )
    return good


def incomplete(path: Path, error: Exception) -> InputError:
    """A line on a file that Arrow does not take: what was expected of it, and what it holds instead."""
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(MAGIC)))
            tail = file.read()
    except OSError as refused:
        return InputError(f"{path}: cannot be read: {refused.strerror}")
    expected, got = f"{MAGIC.decode()} at both ends", f"{size} bytes"
    if size and head != MAGIC:
        got = f"{head!r} at its beginning"
    elif size and tail != MAGIC:
        got = f"{tail!r} at the end of {size:,} bytes, as if it were cut off"
    elif size:
        expected, got = "a footer that can be read", _line(error)
    return InputError(f"{path}: not a complete Parquet file: expected {expected}, got {got}")


def damaged(where: str, error: Exception) -> InputError:
    """Arrow tells damage by OSError as well, without the number that the system gives to its own."""
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(f"{where}: cannot be read: {error.strerror}")
    return InputError(f"{where}: damaged: {_line(error)}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
