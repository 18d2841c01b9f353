"""Flat recordings: one row per tick, in NDJSON, CSV or Parquet, under the names of `columns.py`.

Every cell is read as text, so the three formats share one set of rules. Sizes and numbers may be missing:
unknown sizes are 0 on both sides, and rows are numbered instead. Rows carry no connection, so a silence of a
product is the gap (`ReadOptions.gap_after_ns`).
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from common.errors import InputError
from pipeline.archive.columns import ColumnMap, complete
from pipeline.archive.lines import read_lines
from pipeline.feed.rfc3339 import MAX_NS
from pipeline.feed.times import parse_recorded_ns
from pipeline.records import DeadReason, Tick

PARQUET_MAGIC = b"PAR1"

MAX_DIGITS = 100  # of a sequence number, leading zeros included, that is read exactly

_BATCH_ROWS = 65_536
_PEEK_LINES = 100  # how far into a file its first row is searched for
_NULLS = frozenset({"", "null", "none", "nan", "nat"})
_NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


class FlatFile(NamedTuple):
    path: Path
    kind: str  # "NDJSON", "CSV", "Parquet"
    columns: ColumnMap
    product: str  # of all rows; "": there is a column


class Row(NamedTuple):
    """A row: cells by column, or the fault of its line."""

    source: str  # "FILE:LINE"
    cells: Mapping[str, str]
    raw: bytes
    fault: str = ""


class RowFault(Exception):  # noqa: N818 (never leaves this package)
    """Why a row is no tick."""

    def __init__(self, reason: DeadReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def find_columns(path: Path) -> tuple[str, Sequence[str]] | None:
    """Format and column names of a file of rows; None for a file of any other kind."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == PARQUET_MAGIC:
        return "Parquet", _parquet(path).schema_arrow.names
    is_csv = path.name.endswith((".csv", ".csv.gz"))
    for line in itertools.islice(read_lines(path), _PEEK_LINES):
        if not line.content.strip() or line.error:
            continue
        if is_csv:
            names, fault = _csv_cells(line.content, _delimiter(line.content))
            return None if fault else ("CSV", names)
        try:
            return "NDJSON", list(_decode_object(line.content))
        except _NOT_DECODED:
            continue  # a damaged line; the next one may be a row
    return None


def open_flat(path: Path, given: Mapping[str, str], product: str) -> FlatFile | None:
    """The file as a flat recording; None if its rows hold no ticks. Raises UsageError for a column it lacks."""
    found = find_columns(path)
    if found is None:
        return None
    kind, names = found
    columns = complete(given, names)
    if columns.missing:
        return None
    if not columns["product"] and not product:
        raise InputError(
            f"recording {path}: no column for the product among {', '.join(names)}; "
            "add --product NAME, or --columns product=COLUMN"
        )
    return FlatFile(path, kind, columns, product)


def rows(file: FlatFile) -> Iterator[Row]:
    if file.kind == "Parquet":
        return _parquet_rows(file)
    return _csv_rows(file.path) if file.kind == "CSV" else _json_rows(file.path)


def tick_of(row: Row, file: FlatFile, number: int) -> Tick:
    """number: counts rows, for files without a sequence number. Raises RowFault."""
    columns = file.columns

    def cell(role: str) -> str:
        text = row.cells.get(columns[role], "").strip() if columns[role] else ""
        return "" if text.lower() in _NULLS else text

    product = file.product if not columns["product"] else cell("product")
    if not 1 <= len(product) <= 100:
        raise RowFault("wrong_shape", f"{columns['product']}: expected a product, got {product!r:.60}")
    bid, ask, mid = _quote(columns, cell)
    if bid > ask:
        raise RowFault("crossed_quote", f"{columns['bid']}: expected at most the ask {ask}, got {bid}")
    price = _positive(cell("price"), columns["price"]) if cell("price") else mid
    bid_quantity, ask_quantity = _quantity(cell, columns, "bid_quantity"), _quantity(cell, columns, "ask_quantity")
    known = bid_quantity is not None and ask_quantity is not None
    return Tick(
        product,
        _time_ns(cell("time"), columns["time"]),
        _time_ns(cell("ingest_time"), columns["ingest_time"]) if cell("ingest_time") else 0,
        _sequence(cell("sequence"), columns["sequence"], number),
        price,
        bid,
        ask,
        bid_quantity if known and bid_quantity is not None else 0.0,
        ask_quantity if known and ask_quantity is not None else 0.0,
        cell("venue") or "coinbase",
    )


def _quote(columns: ColumnMap, cell: Any) -> tuple[float, float, float]:
    """Bid, ask and mid."""
    if columns["bid"] and columns["ask"]:
        bid, ask = _positive(cell("bid"), columns["bid"]), _positive(cell("ask"), columns["ask"])
        return bid, ask, bid + 0.5 * (ask - bid)
    mid = _positive(cell("mid"), columns["mid"])
    if not columns["spread"]:
        return mid, mid, mid
    spread = _number(cell("spread"), columns["spread"])
    if spread < 0 or spread >= 2 * mid:
        raise RowFault("crossed_quote", f"{columns['spread']}: expected 0 or more, below 2 x mid, got {spread}")
    return mid - spread / 2, mid + spread / 2, mid


def _number(text: str, column: str) -> float:
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        raise RowFault("wrong_shape", f"{column}: expected a number, got {text!r:.60}") from None
    if not math.isfinite(value):
        raise RowFault("not_finite", f"{column}: expected a finite number, got {text!r:.60}")
    return value


def _positive(text: str, column: str) -> float:
    value = _number(text, column)
    if value <= 0:
        raise RowFault("not_positive", f"{column}: expected a positive number, got {text!r:.60}")
    return value


def _quantity(cell: Any, columns: ColumnMap, role: str) -> float | None:
    text = cell(role)
    if not text:
        return None
    value = _number(text, columns[role])
    if value < 0:
        raise RowFault("not_positive", f"{columns[role]}: expected 0 or more, got {text!r:.60}")
    return value


def _sequence(text: str, column: str, number: int) -> int:
    if not text:
        return number
    value = _number(text, column)
    # A double holds no int64 exactly. Python refuses texts of more than 4,300 digits.
    exact = int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else int(value)
    if not 0 <= exact <= MAX_NS:
        raise RowFault("wrong_shape", f"{column}: expected a count from 0, got {text!r:.60}")
    return exact


def _time_ns(text: str, column: str) -> int:
    try:
        return parse_recorded_ns(text)
    except ValueError:
        raise RowFault("bad_time", f"{column}: expected a time of 1970 to 2262, got {text!r:.60}") from None


def _json_rows(path: Path) -> Iterator[Row]:
    for line in read_lines(path):
        source = f"{path}:{line.number}"
        if line.error:
            yield Row(source, {}, line.content, line.error)
        elif line.content.strip():
            try:
                fields = _decode_object(line.content)
                yield Row(source, {name: _text(value) for name, value in fields.items()}, line.content)
            except _NOT_DECODED as error:
                yield Row(source, {}, line.content, str(error))


def _text(value: msgspec.Raw) -> str:
    raw = bytes(value)
    return _decode_text(raw) if raw[:1] == b'"' else raw.decode()


def _delimiter(header: bytes) -> str:
    return max(",;\t|", key=header.decode(errors="replace").count)


def _csv_rows(path: Path) -> Iterator[Row]:
    names: list[str] | None = None
    delimiter = ","
    for line in read_lines(path):
        source = f"{path}:{line.number}"
        if line.error:
            yield Row(source, {}, line.content, line.error)
        elif line.content.strip():
            if names is None:
                delimiter = _delimiter(line.content)
                names, _ = _csv_cells(line.content, delimiter)
                continue
            cells, fault = _csv_cells(line.content, delimiter)
            if not fault and len(cells) != len(names):
                fault = f"expected {len(names)} cells, got {len(cells)}"
            yield Row(source, dict(zip(names, cells, strict=False)), line.content, fault)


def _csv_cells(line: bytes, delimiter: str) -> tuple[list[str], str]:
    """The cells of a line, and its fault: a carriage return within it, or a cell of more than 131,072 characters."""
    text = line.decode(errors="replace").rstrip("\r")
    try:
        return next(csv.reader([text], delimiter=delimiter)), ""
    except csv.Error as error:
        return [], str(error)


def _parquet(path: Path) -> Any:
    import pyarrow as pa  # the ingestor's container has no pyarrow
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(f"recording {path}: not a complete Parquet file: {reason}")


def _parquet_batches(file: FlatFile) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Names and cells of the columns, a batch at a time. Raises InputError at damage."""
    import pyarrow as pa

    names = list(dict.fromkeys(file.columns.columns.values()))
    try:
        for batch in _parquet(file.path).iter_batches(_BATCH_ROWS, columns=names):
            yield batch.schema.names, [_cells(batch.column(name)) for name in batch.schema.names]
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise _damaged(file.path, error) from None


def _parquet_rows(file: FlatFile) -> Iterator[Row]:
    number = 0
    for names, columns in _parquet_batches(file):
        for values in zip(*columns, strict=True):
            number += 1
            cells = dict(zip(names, values, strict=True))
            yield Row(f"{file.path}:{number}", cells, msgspec.json.encode(cells))


def _cells(column: Any) -> list[str]:
    """A column of an Arrow batch as text; times as nanoseconds."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
    elif pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ns")).cast(pa.int64())
    if pa.types.is_floating(column.type):
        return ["" if value is None else repr(value) for value in column.to_pylist()]
    return ["" if value is None else str(value) for value in column.to_pylist()]
