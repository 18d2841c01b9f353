"""Feature rows as Parquet files.

Columns: product_id, event_time_ns, ingest_time_ns, sequence_num, warm, then the features of the schema by
name as float64, NaN where not warm. The schema's name and hash are in the file's metadata.

A file is written under a temporary name and gets its own only when it is complete, so whatever is named
*.parquet can be read, whenever the writer was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.errors import InputError
from common.log import get_logger
from common.losses import DISK_FULL, count_not_stored
from common.schema import CORE_1, SCHEMAS, FeatureSchema
from pipeline.features.columns import ProductCodes
from pipeline.features.table import FeatureRows

SUFFIX = ".parquet"
_TEMPORARY_SUFFIX = ".unfinished"
_NAME_KEY, _HASH_KEY = b"volcast.schema.name", b"volcast.schema.hash"
_TIMES = ("event_time_ns", "ingest_time_ns", "sequence_num")
_ROW_GROUP_ROWS = 65_536
RETRY_S = 10.0  # after a failure, how long a directory's rows are only counted, and its next file is kept short
STORE = "parquet"  # its name in volcast_not_stored_total


def arrow_schema(schema: FeatureSchema) -> Any:
    """The columns of a file of rows of `schema`, and its metadata."""
    return pa.schema(
        [
            pa.field("product_id", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            *(pa.field(name, pa.int64(), nullable=False) for name in _TIMES),
            pa.field("warm", pa.bool_(), nullable=False),
            *(pa.field(name, pa.float64(), nullable=False) for name in schema.names),
        ],
        metadata={_NAME_KEY: schema.name.encode(), _HASH_KEY: schema.hash.encode()},
    )


class TickTimes(Protocol):
    """What is taken of the ticks, (n,) each; TickColumns has it."""

    @property
    def event_time_ns(self) -> NDArray[np.int64]: ...
    @property
    def ingest_time_ns(self) -> NDArray[np.int64]: ...
    @property
    def sequence_num(self) -> NDArray[np.int64]: ...


class FeatureParquetWriter:
    """Writes rows of one schema to one file, or to a directory of files.

    target: `*.parquet` is a file, which replaces what was there when the writer is closed. Anything else
    is a directory, made where it is missing, in which a file is completed each `roll_rows` rows or
    `roll_s` seconds: a kill loses at most that. What killed writers left unfinished there is removed.

    As a context manager it closes; after an error a file is left as it was, a directory keeps its rows.

    A disk that refuses: for a file, every method raises InputError. Writing to a directory never raises it,
    since a worker goes on without Parquet: the rows of the file in hand are counted as lost, the first failure
    and the recovery are logged, and RETRY_S later another file begins.
    """

    def __init__(
        self,
        target: Path,
        roll_rows: int = 1_000_000,
        roll_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        schema: FeatureSchema = CORE_1,
    ) -> None:
        self.target = target
        self.schema = schema
        self.rows = 0  # taken so far
        self._single = target.suffix == SUFFIX
        self._roll_rows = roll_rows
        self._roll_s = roll_s
        self._clock = clock
        self._file: _OpenFile | None = None
        self._arrow_schema = arrow_schema(schema)
        self._pending = _RowGroup(len(schema))
        self._failing = False
        self._retry_at_s = 0.0
        self.lost_rows = 0
        directory = target.parent if self._single else target
        with _refused(target, unless=() if self._single else DISK_FULL):
            directory.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(directory)
            if self._single:
                self._file = _OpenFile(self._arrow_schema, directory, target)
        if not self._single:
            count_not_stored(STORE, 0)

    def write(
        self,
        product_ids: Sequence[str],
        ticks: TickTimes,
        values: NDArray[np.float64],
        warm: NDArray[np.bool_],
    ) -> None:
        """Takes n rows: values (n, features of the schema), warm (n,)."""
        done = 0
        while done < len(product_ids):
            if self._failing and self._clock() < self._retry_at_s:
                self._count_lost(len(product_ids) - done)
                return
            with self._guarded():
                if self._file is None:
                    self._file = self._next_file(int(ticks.event_time_ns[done]))
                taken = self._pending.take(product_ids, ticks, values, warm, done)
                done += taken
                self._file.rows += taken
                self.rows += taken
                if self._pending.is_full:
                    self._write_pending()
        self.roll_if_due()

    def _next_file(self, first_time_ns: int) -> _OpenFile:
        self.target.mkdir(parents=True, exist_ok=True)
        return _OpenFile(self._arrow_schema, self.target, None, first_time_ns, self._clock())

    def roll_if_due(self) -> None:
        """Completes the directory's file where its time is over. Call it now and then: a feed may be quiet."""
        file = self._file
        if self._single or file is None:
            return
        # After a failure the first file is short: it shows soon whether the disk takes files again.
        roll_s = min(self._roll_s, RETRY_S) if self._failing else self._roll_s
        if file.rows >= self._roll_rows or self._clock() - file.opened >= roll_s:
            self.close()

    def close(self) -> None:
        """Completes the file in hand. Writing to a directory again begins another."""
        if self._file is None:
            return
        with self._guarded():
            try:
                self._write_pending()
                self._file.complete()
            except OSError:
                raise
            except BaseException:
                self.abort()
                raise
            self._file = None
            self._recover()

    def abort(self) -> None:
        """Removes the file in hand."""
        if self._file is not None:
            self._file.discard()
        self._file = None
        self._pending.clear()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Gives up the file in hand if the disk refuses. For a single file, raises InputError."""
        try:
            yield
        except OSError as error:
            lost = self._file.rows if self._file is not None else 0
            self.abort()
            if self._single:
                raise _not_written(self.target, error) from None
            self._fail(error, lost)

    def _fail(self, error: OSError, lost: int) -> None:
        self._count_lost(lost)
        self._retry_at_s = self._clock() + RETRY_S
        if not self._failing:
            self._failing = True
            reason = error.strerror or str(error)
            get_logger().warning(
                "Parquet cannot be written, features go on without it", directory=str(self.target), error=reason
            )

    def _recover(self) -> None:
        if self._failing:
            self._failing = False
            get_logger().info("Parquet is written again", directory=str(self.target), lost_rows=self.lost_rows)

    def _count_lost(self, rows: int) -> None:
        self.lost_rows += rows
        count_not_stored(STORE, rows)

    def _write_pending(self) -> None:
        if len(self._pending) and self._file is not None:
            self._file.parquet.write_batch(self._pending.batch(self._arrow_schema))
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None and self._single:
            self.abort()
        else:
            self.close()


class _RowGroup:
    """Rows gathered in plain arrays until there are enough for a row group.

    Arrow batches of the few rows a live worker writes at a time would cost ten times as much each.
    """

    def __init__(self, width: int) -> None:
        self._codes = ProductCodes()
        self._product = np.empty(_ROW_GROUP_ROWS, np.int32)
        self._times = np.empty((len(_TIMES), _ROW_GROUP_ROWS), np.int64)
        self._warm = np.empty(_ROW_GROUP_ROWS, np.bool_)
        self._values = np.empty((_ROW_GROUP_ROWS, width), np.float64)
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    @property
    def is_full(self) -> bool:
        return self._rows == _ROW_GROUP_ROWS

    def take(
        self,
        product_ids: Sequence[str],
        ticks: TickTimes,
        values: NDArray[np.float64],
        warm: NDArray[np.bool_],
        first: int,
    ) -> int:
        """Copies rows from `first` on, as many as there is room for, and says how many."""
        taken = min(len(product_ids) - first, _ROW_GROUP_ROWS - self._rows)
        target, source = slice(self._rows, self._rows + taken), slice(first, first + taken)
        self._product[target] = [self._codes[product_id] for product_id in product_ids[source]]
        for row, name in enumerate(_TIMES):
            self._times[row, target] = getattr(ticks, name)[source]
        self._warm[target] = warm[source]
        self._values[target] = values[source]
        self._rows += taken
        return taken

    def batch(self, arrow_schema: Any) -> Any:
        rows = slice(0, self._rows)
        products = pa.DictionaryArray.from_arrays(
            pa.array(self._product[rows]), pa.array(self._codes.names, pa.string())
        )
        values = np.ascontiguousarray(self._values[rows].T)
        columns = [
            products,
            *(pa.array(one[rows]) for one in self._times),
            pa.array(self._warm[rows]),
            *map(pa.array, values),
        ]
        return pa.record_batch(columns, schema=arrow_schema)

    def clear(self) -> None:
        self._rows = 0
        self._codes.clear()


class _OpenFile:
    """An unfinished file: hidden, and locked for as long as its writer lives."""

    def __init__(
        self,
        arrow_schema: Any,
        directory: Path,
        final: Path | None,
        first_time_ns: int = 0,
        opened: float = 0.0,
    ) -> None:
        self.rows = 0
        self.opened = opened
        stamp = datetime.fromtimestamp(first_time_ns // 10**9, UTC).strftime("%Y%m%dT%H%M%SZ")
        self._stem = final.stem if final else f"features_{stamp}"
        self._directory = directory
        self._final = final
        self._path, self._stream = self._create()
        self.parquet: Any = None
        try:
            self.parquet = pq.ParquetWriter(
                self._stream,
                arrow_schema,
                compression="zstd",
                use_dictionary=["product_id"],
                write_page_checksum=True,
            )
        except OSError:
            self.discard()
            raise

    def complete(self) -> None:
        self.parquet.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        if self._final is not None:
            os.replace(self._path, self._final)
        else:
            self._publish()
        self._stream.close()

    def discard(self) -> None:
        with contextlib.suppress(OSError, pa.ArrowException):
            self._path.unlink()
        if self.parquet is not None:
            with contextlib.suppress(OSError, pa.ArrowException):
                self.parquet.close()
        with contextlib.suppress(OSError):
            self._stream.close()

    def _create(self) -> tuple[Path, Any]:
        for number in itertools.count():
            path = self._directory / f".{self._stem}.{os.getpid()}-{number}{_TEMPORARY_SUFFIX}"
            with contextlib.suppress(FileExistsError):
                stream = path.open("xb")
                fcntl.flock(stream, fcntl.LOCK_EX)
                if _is_still_at(path, stream):
                    return path, stream
                stream.close()  # another writer took it for abandoned before it was locked
        raise AssertionError

    def _publish(self) -> None:
        """Gives the file a name that no other file has; a link, unlike a rename, never replaces one."""
        for number in itertools.count(1):
            final = self._directory / f"{self._stem}{'' if number == 1 else f'-{number}'}{SUFFIX}"
            with contextlib.suppress(FileExistsError):
                os.link(self._path, final)
                self._path.unlink()
                return


def _is_still_at(path: Path, stream: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def _remove_abandoned(directory: Path) -> None:
    """Removes unfinished files whose writer is gone: its lock went with it."""
    for path in directory.glob(f".*{_TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError), path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def read_features(path: Path, schema: FeatureSchema | None = None) -> FeatureRows:
    """The rows of a file, or of all complete files of a directory, in the order of their names.

    schema: the one they must be of; without, any that the engine computes, the same in all files. Raises
    InputError for a file that cannot be read, is damaged, or holds rows of another schema.
    """
    files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"features {path}: the directory holds no {SUFFIX} file")
    parts: list[FeatureRows] = []
    for file in files:
        parts.append(_read(file, schema))
        schema = parts[-1].schema
    return FeatureRows.joined(parts)


def _read(path: Path, expected: FeatureSchema | None) -> FeatureRows:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            schema = _schema_of(path, file.schema_arrow, expected)
            table = file.read().combine_chunks()
    except OSError as error:
        raise InputError(f"features {path}: cannot be read: {error.strerror or _line(error)}") from None
    except pa.ArrowException as error:
        raise InputError(f"features {path}: not a complete Parquet file: {_line(error)}") from None
    event_time_ns, ingest_time_ns, sequence_num = (table[name].to_numpy() for name in _TIMES)
    values = np.empty((len(table), len(schema)), np.float64)
    for column, name in enumerate(schema.names):
        values[:, column] = table[name].to_numpy()
    product_ids = table["product_id"].cast(pa.string()).to_pylist()
    warm = table["warm"].to_numpy()
    return FeatureRows(product_ids, event_time_ns, ingest_time_ns, sequence_num, warm, values, schema)


def _schema_of(path: Path, found: Any, expected: FeatureSchema | None) -> FeatureSchema:
    metadata = found.metadata or {}
    got = metadata.get(_HASH_KEY, b"").decode(errors="replace")
    allowed = [expected] if expected else list(SCHEMAS.values())
    schema = next((one for one in allowed if one.hash == got), None)
    if schema is None:
        name = metadata.get(_NAME_KEY, b"none").decode(errors="replace")
        wanted = " or ".join(f"{one.name} ({one.hash})" for one in allowed)
        raise InputError(f"features {path}: expected schema {wanted}, got {name} ({got or 'no hash'})")
    for field in arrow_schema(schema):
        if field.name not in found.names:
            raise InputError(f"features {path}: no column {field.name}")
        if field.name != "product_id" and found.field(field.name).type != field.type:
            got = found.field(field.name).type
            raise InputError(f"features {path}: {field.name}: expected {field.type}, got {got}")
    return schema


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@contextlib.contextmanager
def _refused(path: Path, unless: Collection[int] = ()) -> Iterator[None]:
    """Raises InputError in place of an OSError, and nothing if its number is in `unless`."""
    try:
        yield
    except OSError as error:
        if error.errno not in unless:
            raise _not_written(path, error) from None


def _not_written(path: Path, error: OSError) -> InputError:
    return InputError(f"features {path}: cannot be written: {error.strerror or error}")
