"""Offline inference: reads rows of features from a file, writes their predictions, and times a call.

Rows come as Parquet (as `volcast features` writes it) or as JSON lines, with a column or key for each feature;
a line may also hold them below "features". Predictions have the names of `volcast watch --json`. A row with a feature
that is missing or not finite has the prediction null, and is counted.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.bundle import Manifest
from common.config import MAX_LEVELS
from common.errors import InputError, UsageError
from common.schema import FeatureSchema
from pipeline.archive import read_archive
from pipeline.records import Tick
from training.forecasting.onnx_forecast import OnnxForecast
from training.problem.data.features import HASH_KEY, NAME_KEY
from training.problem.data.tables import damaged, parquet_schema
from training.shipping.onnx_model import OnnxModel

CHUNK_ROWS = 65_536
NAMES_OF_ROWS = ("product_id", "event_time_ns", "sequence_num")  # copied to the prediction if the input has them
OUTPUTS = (".parquet", ".csv", ".json", ".ndjson")
Predict = Callable[[NDArray[np.float64]], NDArray[np.float64]]
_PEEKED_RECORDS = 100  # a recording may begin with records that are no ticks
_MEASURE_S = 0.3  # of each batch size and form
_LEAST_CALLS = 7


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of a file: what they are called, and their features (rows, features), NaN where there is none."""

    names: dict[str, Sequence[Any]]
    features: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, slots=True)
class Timed:
    """A batch size, and the median time of a call in each form, in µs."""

    rows: int
    onnx_us: float
    trained_us: float | None

    @property
    def onnx_rows_per_s(self) -> float:
        return self.rows / self.onnx_us * 1e6

    @property
    def ratio(self) -> float | None:
        """How many times as long the trained form takes."""
        return None if self.trained_us is None else self.trained_us / self.onnx_us


def read_chunks(path: Path, schema: FeatureSchema) -> Iterator[Chunk]:
    """Raises InputError where the file cannot be read or lacks features of the schema."""
    reader = _parquet_chunks if path.suffix == ".parquet" else _json_chunks
    try:
        yield from reader(path, schema)
    except (OSError, pa.ArrowException) as error:
        raise damaged(str(path), error) from None


def _parquet_chunks(path: Path, schema: FeatureSchema) -> Iterator[Chunk]:
    found = parquet_schema(path)
    columns = found.names
    _require_schema(path, schema, found.metadata or {})
    _require(path, schema, columns)
    with pq.ParquetFile(path) as file:
        names = [name for name in NAMES_OF_ROWS if name in columns]
        for batch in file.iter_batches(CHUNK_ROWS, columns=[*names, *schema.names]):
            features = [_as_float64(path, name, batch.column(name)) for name in schema.names]
            told = {name: batch.column(name).to_pylist() for name in names}
            yield Chunk(told, np.column_stack(features))


def _as_float64(path: Path, name: str, column: Any) -> NDArray[np.float64]:
    try:
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        raise InputError(f"{path}: column {name}: expected numbers, got {column.type}") from None
    return np.asarray(values, dtype=np.float64)


def _require_schema(path: Path, schema: FeatureSchema, metadata: Mapping[bytes, bytes]) -> None:
    """Columns of the same names may mean something else in another schema; a file that names none is taken by names."""
    name, got = (metadata.get(key, b"").decode(errors="replace") for key in (NAME_KEY, HASH_KEY))
    if got and got != schema.hash:
        raise InputError(f"{path}: expected rows of schema {schema.name} ({schema.hash}), got {name} ({got})")


def _require(path: Path, schema: FeatureSchema, columns: Sequence[str]) -> None:
    missing = [name for name in schema.names if name not in columns]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        lacks = f"{', '.join(missing[:3])}{more}"
        text = f"{path}: schema {schema.name} {schema.hash} needs columns that are not there: {lacks}"
        # A recording may have a price or a mid of the same name.
        raise InputError((_advice(path, schema) if 2 * len(missing) > len(schema) else "") or text)


def _advice(path: Path, schema: FeatureSchema) -> str:
    """If the file is a recording: the command that computes its rows of features, as a sentence. Otherwise empty."""
    try:
        ticks = any(isinstance(record, Tick) for record in islice(read_archive([path]), _PEEKED_RECORDS))
    except InputError:
        return ""
    command = f"volcast features --data-file {path} --schema {schema.name} --out features.parquet"
    return f"{path}: expected rows of features, got a recording; first run `{command}`" if ticks else ""


def _json_chunks(path: Path, schema: FeatureSchema) -> Iterator[Chunk]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    rows: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                rows.append(decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InputError(_advice(path, schema) or f"{path}:{number}: {error}") from None
            if len(rows) == CHUNK_ROWS:
                yield _of_objects(path, schema, rows)
                rows = []
    if rows:
        yield _of_objects(path, schema, rows)


def _of_objects(path: Path, schema: FeatureSchema, rows: Sequence[dict[str, Any]]) -> Chunk:
    held = [row["features"] if isinstance(row.get("features"), dict) else row for row in rows]
    _require(path, schema, list({name for row in held for name in row}))
    try:
        values = [[np.nan if row.get(name) is None else float(row[name]) for name in schema.names] for row in held]
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: a feature is no number: {error}") from None
    names: dict[str, Sequence[Any]] = {
        name: [row.get(name) for row in rows] for name in NAMES_OF_ROWS if any(name in row for row in rows)
    }
    return Chunk(names, np.array(values, dtype=np.float64).reshape(len(rows), len(schema)))


@dataclass(frozen=True, slots=True)
class Answers:
    """Predictions of n rows, NaN without an answer. median_bps, quantile_bps: None for an old-style model."""

    probability: NDArray[np.float64]  # (n,)
    median_bps: NDArray[np.float64] | None = None  # (n,)
    quantile_bps: NDArray[np.float64] | None = None  # (n, levels)


class Predictor:
    """A bundle's graph at a spike size, with quantiles at levels.

    spike_bps: 0: the model's default. Raises UsageError for a size or levels that the contract refuses, or that an
    old-style model does not take.
    """

    def __init__(
        self, manifest: Manifest, model: bytes, spike_bps: float = 0.0, levels: tuple[float, ...] = ()
    ) -> None:
        self.manifest = manifest
        self.levels = levels
        forecast = manifest.forecast
        if forecast is None and (spike_bps or levels):
            option = "--spike-bps" if spike_bps else "--quantiles"
            raise UsageError(f"{option}: {manifest.name}/{manifest.version} gives a probability at its own size only")
        if not 0 <= spike_bps < np.inf:
            raise UsageError(f"--spike-bps: expected a positive number, got {spike_bps:g}")
        inside = all(0 < level < 1 for level in levels)
        if not inside or list(levels) != sorted(set(levels)) or len(levels) > MAX_LEVELS:
            raise UsageError(f"--quantiles: expected at most {MAX_LEVELS} ascending levels in (0, 1)")
        self.spike_bps = 0.0 if forecast is None else spike_bps or forecast.spike_bps
        self.base_rate = 0.0 if forecast is None else forecast.sizes.share_at(self.spike_bps)
        self._graph = OnnxModel(model) if forecast is None else OnnxForecast(model)

    def answers(self, features: NDArray[np.float64]) -> Answers:
        """Predictions of rows (n, features)."""
        good = np.isfinite(features).all(axis=1)
        rows, levels = len(features), len(self.levels)
        probability, median, quantiles = np.full(rows, np.nan), np.full(rows, np.nan), np.full((rows, levels), np.nan)
        if isinstance(self._graph, OnnxModel):
            if good.any():
                probability[good] = self._graph.probabilities(features[good])
            return Answers(probability)
        if good.any():
            count = int(np.count_nonzero(good))
            sizes, requested = np.full(count, self.spike_bps), np.tile(np.array(self.levels), (count, 1))
            probability[good], median[good], quantiles[good] = self._graph.run(features[good], sizes, requested)
        return Answers(probability, median, quantiles)

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,), for rows (n, features) that are finite."""
        if isinstance(self._graph, OnnxModel):
            return self._graph.probabilities(features)
        rows = len(features)
        return self._graph.run(features, np.full(rows, self.spike_bps), np.zeros((rows, 0)))[0]


class AnswerWriter:
    """Answers as Parquet, CSV, a JSON list or JSON lines, by the file's suffix; "-" is JSON lines on standard output.

    The file gets its name when it is complete. As a context manager it is finished at the end, or removed after an
    error. Raises UsageError for another suffix, InputError if the file cannot be written.
    """

    def __init__(self, target: str, predictor: Predictor, stdout: IO[bytes]) -> None:
        self._path = None if target == "-" else Path(target)
        if self._path is not None and self._path.suffix not in OUTPUTS:
            raise UsageError(f"--out: expected a name that ends in {', '.join(OUTPUTS)}, or -, got {target}")
        self._predictor = predictor
        self._suffix = ".ndjson" if self._path is None else self._path.suffix
        self._making = None if self._path is None else self._path.with_name(f".{self._path.name}.new-{os.getpid()}")
        self._stream: IO[bytes] = stdout if self._making is None else self._opened(self._making)
        self._table: pq.ParquetWriter | None = None
        self._rows = 0

    def write(self, chunk: Chunk, answers: Answers) -> None:
        """Writes a chunk's rows with their predictions; NaN is written as null."""
        columns: dict[str, Sequence[Any]] = {**chunk.names, **self._predictions(answers)}
        with self._refused():
            if self._suffix == ".parquet":
                self._write_parquet(columns)
            elif self._suffix == ".csv":
                self._write_csv(columns)
            else:
                self._write_json(columns)
        self._rows += len(chunk)

    def _predictions(self, answers: Answers) -> dict[str, Sequence[Any]]:
        predictor, rows = self._predictor, len(answers.probability)
        manifest = predictor.manifest
        known = ~np.isnan(answers.probability)
        spike = answers.probability >= manifest.decision_threshold
        columns: dict[str, Sequence[Any]] = {
            "probability": _or_null(answers.probability, known),
            "spike": _or_null(spike, known),
        }
        if answers.median_bps is None or answers.quantile_bps is None:
            return columns
        return columns | {
            "threshold": [manifest.decision_threshold] * rows,
            "model": [f"{manifest.name}/{manifest.version}"] * rows,
            "spike_bps": [predictor.spike_bps] * rows,
            "base_rate": [predictor.base_rate] * rows,
            "median_bps": _or_null(answers.median_bps, known),
            "quantiles": [list(predictor.levels)] * rows,
            "quantile_bps": _or_null(answers.quantile_bps, known),
        }

    def _write_parquet(self, columns: dict[str, Sequence[Any]]) -> None:
        lists = pa.list_(pa.float64())
        types = {"probability": pa.float64(), "spike": pa.bool_(), "median_bps": pa.float64()}
        types |= {"quantiles": lists, "quantile_bps": lists}
        table = pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})
        if self._table is None:
            self._table = pq.ParquetWriter(self._stream, table.schema, compression="zstd")
        self._table.write_table(table.cast(self._table.schema))

    def _write_csv(self, columns: dict[str, Sequence[Any]]) -> None:
        lines = _Text(self._stream)
        writer = csv.writer(lines, lineterminator="\n")
        if self._rows == 0:
            writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))

    def _write_json(self, columns: dict[str, Sequence[Any]]) -> None:
        for number, row in enumerate(zip(*columns.values(), strict=True)):
            line = msgspec.json.encode(dict(zip(columns, row, strict=True)))
            if self._suffix == ".ndjson":
                self._stream.write(line + b"\n")
            else:
                self._stream.write((b",\n" if self._rows + number else b"[\n") + line)

    def _finish(self) -> None:
        if self._table is not None:
            self._table.close()
        if self._suffix == ".json":
            self._stream.write(b"\n]\n" if self._rows else b"[]\n")
        self._stream.flush()
        if self._making is not None and self._path is not None:
            self._stream.close()
            self._making.replace(self._path)

    def _opened(self, path: Path) -> IO[bytes]:
        with self._refused():
            return path.open("wb")

    def _refused(self) -> _Refused:
        return _Refused(self._path or Path("standard output"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._refused():
                    self._finish()
        finally:
            if self._making is not None:
                self._stream.close()
                self._making.unlink(missing_ok=True)


def _or_null(values: NDArray[Any], known: NDArray[np.bool_]) -> list[Any]:
    """Values (n, …) as Python's, None where not known (n,)."""
    return [value if has else None for value, has in zip(values.tolist(), known.tolist(), strict=True)]


class _Refused:
    """Turns an error of the disk into an InputError of a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise InputError(f"{self._path}: cannot be written: {error.strerror or error}") from None


class _Text:
    """The text stream of the csv module."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(text.encode())


def benchmark(onnx: Predict, trained: Predict | None, rows: NDArray[np.float64], sizes: Sequence[int]) -> list[Timed]:
    """Times both forms on batches of the same rows, (rows, features), repeated where they are fewer than a batch."""
    found = []
    for size in sizes:
        batch = np.ascontiguousarray(np.resize(rows, (size, rows.shape[1])))
        found.append(Timed(size, _median_us(onnx, batch), None if trained is None else _median_us(trained, batch)))
    return found


def _median_us(predict: Predict, batch: NDArray[np.float64]) -> float:
    predict(batch)
    taken: list[int] = []
    until = time.perf_counter() + _MEASURE_S
    while len(taken) < _LEAST_CALLS or time.perf_counter() < until:
        began = time.perf_counter_ns()
        predict(batch)
        taken.append(time.perf_counter_ns() - began)
    return float(np.median(taken)) / 1000
