"""Flat recordings: one row per tick, in NDJSON, CSV or Parquet, under the names of `columns.py`.

Every cell is read as text, so the three formats share one set of rules. Sizes and numbers may be missing:
unknown sizes are 0 on both sides, and rows are numbered instead. Rows carry no connection, so a silence of a
product is the gap (`ReadOptions.gap_after_ns`).
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from common.errors import InputError
from pipeline.archive.columns import ColumnMap, complete
from pipeline.archive.lines import read_lines
from pipeline.feed.rfc3339 import MAX_NS
from pipeline.feed.times import parse_recorded_ns
from pipeline.records import NOT_DECODED, DeadReason, Tick

PARQUET_MAGIC = b"PAR1"
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
COMMENT = b"#"  # lines before the header of a CSV file

MAX_DIGITS = 100  # of a sequence number, leading zeros included, that is read exactly

_BATCH_ROWS = 65_536
_PEEK_LINES = 100  # how far into a file its rows are searched for, and their columns collected
_SAMPLE_ROWS = 1000  # if a column of sizes has no value in so many first rows, it is empty
_CSV_NAME = re.compile(r"\.(csv|tsv)(\.gz)?$", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+", re.ASCII)
_CLOCK = re.compile(r"\d\d?:\d\d", re.ASCII)  # the start of a time of day
_NULLS = frozenset({"", "null", "none", "nan", "nat", "na", "n/a", "<na>", "-", "\\n"})
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


def find_columns(path: Path, given: Mapping[str, str] | None = None) -> tuple[str, Sequence[str]] | None:
    """Format and column names of a file of rows; None for a file of any other kind.

    given: the user's columns. A file of another name is CSV if its first line has the columns of a tick.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] in UTF_16_MARKS:
        raise InputError(f"recording {path}: the text is UTF-16; save it as UTF-8")
    if magic == PARQUET_MAGIC:
        return "Parquet", _parquet(path).schema_arrow.names
    header: list[str] = []
    fields: dict[str, None] = {}  # of all first rows: a row may leave out unknown values
    for line in itertools.islice(read_lines(path), _PEEK_LINES):
        if not line.content.strip() or line.error:
            continue
        with contextlib.suppress(*NOT_DECODED):  # a damaged line; the next line may be a row
            fields.update(dict.fromkeys(_decode_object(line.content)))
        if not header and not fields and not line.content.startswith(COMMENT):
            header, _ = _header(line.content)
            if _CSV_NAME.search(path.name) or _names_ticks(header, given or {}):
                return "CSV", header
    return ("NDJSON", list(fields)) if fields else None


def _names_ticks(header: Sequence[str], given: Mapping[str, str]) -> bool:
    return set(given.values()) <= set(header) and not complete(given, header).missing


def is_tick_row(content: bytes, given: Mapping[str, str]) -> bool:
    """Whether a line is a JSON object with the columns of a tick."""
    try:
        return _names_ticks(list(_decode_object(content)), given)
    except NOT_DECODED:
        return False


def is_empty(path: Path) -> bool:
    """Whether a file has no line: a recorder was stopped before its first message."""
    return all(not line.content.strip() and not line.error for line in read_lines(path))


def open_flat(path: Path, given: Mapping[str, str], product: str) -> FlatFile | None:
    """The file as a flat recording; None if its rows hold no ticks. Raises UsageError for a column it lacks."""
    kind_and_names = find_columns(path, given)
    if kind_and_names is None:
        return None
    kind, names = kind_and_names
    columns = complete(given, names)
    if columns.missing:
        return None
    if not columns["product"] and not product:
        raise InputError(
            f"recording {path}: no column for the product among {', '.join(names)}; "
            "add --product NAME, or --columns product=COLUMN"
        )
    file = FlatFile(path, kind, columns, product)
    return file._replace(columns=columns.with_values(*_sizes_without_values(file)))


def _sizes_without_values(file: FlatFile) -> tuple[list[str], list[str]]:
    """Columns of sizes without any value in the first rows, and those in which some rows lack it."""
    columns = {file.columns[role] for role in ("bid_quantity", "ask_quantity")} - {""}
    counts = Counter[str]()
    seen = 0
    for row in itertools.islice(rows(file), _SAMPLE_ROWS) if columns else ():
        seen += 1
        counts.update(column for column in columns if row.cells.get(column, "").strip().lower() in _NULLS)
    empty = [column for column in sorted(columns) if seen and counts[column] == seen]
    return empty, [column for column in sorted(columns) if 0 < counts[column] < seen]


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

    def price_cell(role: str) -> str:
        return row.cells.get(columns[role], "").strip()  # the detail of a refusal quotes nan as nan

    product = file.product if not columns["product"] else cell("product")
    if not 1 <= len(product) <= 100:
        raise RowFault("wrong_shape", f"{columns['product']}: expected a product, got {product!r:.60}")
    bid, ask, mid = _quote(columns, price_cell)
    if bid > ask:
        raise RowFault("crossed_quote", f"{columns['bid']}: expected at most the ask {ask}, got {bid}")
    price = _positive(cell("price"), columns["price"]) if cell("price") else mid
    bid_quantity, ask_quantity = _quantity(cell, columns, "bid_quantity"), _quantity(cell, columns, "ask_quantity")
    known = bid_quantity is not None and ask_quantity is not None
    return Tick(
        product,
        _event_time_ns(cell, columns),
        _time_ns(cell("ingest_time"), columns["ingest_time"]) if cell("ingest_time") else 0,
        _sequence(cell("sequence"), columns["sequence"], number),
        price,
        bid,
        ask,
        bid_quantity if known and bid_quantity is not None else 0.0,
        ask_quantity if known and ask_quantity is not None else 0.0,
        cell("venue").lower() or "coinbase",
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
    # Python reads no text of more than 4,300 digits as an integer.
    exact = int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else int(value)
    if not 0 <= exact <= MAX_NS:
        raise RowFault("wrong_shape", f"{column}: expected a count from 0, got {text!r:.60}")
    return exact


def _event_time_ns(cell: Any, columns: ColumnMap) -> int:
    text = cell("time")
    if _CLOCK.match(text) and cell("date"):
        return _time_ns(f"{cell('date')} {text}", f"{columns['date']} and {columns['time']}")
    return _time_ns(text, columns["time"])


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
            except NOT_DECODED as error:
                yield Row(source, {}, line.content, str(error))


def _text(value: msgspec.Raw) -> str:
    raw = bytes(value)
    return _decode_text(raw) if raw[:1] == b'"' else raw.decode()


def _header(line: bytes) -> tuple[list[str], str]:
    """Column names and delimiter of a CSV file; the third column without a name is called "column3"."""
    text = line.decode(errors="replace")
    delimiter = max(",;\t|", key=text.count)
    try:
        names = _split(text, delimiter)
    except csv.Error:
        return [], delimiter
    return [name.strip() or f"column{number}" for number, name in enumerate(names, 1)], delimiter


def _split(line: str, delimiter: str) -> list[str]:
    """The cells of a line. Raises csv.Error."""
    return next(csv.reader((line.rstrip("\r"),), delimiter=delimiter))


def _csv_rows(path: Path) -> Iterator[Row]:
    names: list[str] = []
    delimiter = ","
    for line in read_lines(path):
        source = f"{path}:{line.number}"
        if line.error:
            yield Row(source, {}, line.content, line.error)
        elif line.content.strip() and (names or not line.content.startswith(COMMENT)):
            if not names:
                names, delimiter = _header(line.content)
                continue
            try:
                cells = _split(line.content.decode(errors="replace"), delimiter)
            except csv.Error as error:
                yield Row(source, {}, line.content, str(error))
                continue
            if delimiter == ";":
                cells = [cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell for cell in cells]
            fault = "" if len(cells) == len(names) else f"expected {len(names)} cells, got {len(cells)}"
            yield Row(source, dict(zip(names, cells, strict=False)), line.content, fault)


def _parquet(path: Path) -> Any:
    import pyarrow as pa  # the ingestor's container has no pyarrow
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"recording {path}: not a complete Parquet file: {reason}") from None


def _parquet_rows(file: FlatFile) -> Iterator[Row]:
    import pyarrow as pa

    names = list(dict.fromkeys(file.columns.columns.values()))
    number = 0
    try:
        for batch in _parquet(file.path).iter_batches(_BATCH_ROWS, columns=names):
            columns = [_cells(batch.column(name)) for name in batch.schema.names]
            for values in zip(*columns, strict=True):
                number += 1
                cells = dict(zip(batch.schema.names, values, strict=True))
                yield Row(f"{file.path}:{number}", cells, msgspec.json.encode(cells))
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        yield Row(f"{file.path}:{number + 1}", {}, b"", f"the Parquet file is damaged from here on: {reason}")


_NS_PER_UNIT = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


def _cells(column: Any) -> list[str]:
    """A column of an Arrow batch as text; times as nanoseconds."""
    import pyarrow as pa

    unit_ns = 1
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        # Not cast to nanoseconds: a single time in the year 9999 would refuse the whole batch.
        unit_ns = _NS_PER_UNIT[column.type.unit]
        column = column.cast(pa.int64())
    values = column.to_pylist()
    if unit_ns != 1:
        return ["" if value is None else str(value * unit_ns) for value in values]
    return ["" if value is None else str(value) for value in values]
