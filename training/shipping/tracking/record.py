"""A training run as a folder: everything that MLflow is told, and everything that the gate asks for.

    <runs_dir>/<id>/
      run.json             what it was: parameters, metrics, code, data (Run)
      bundle/              model.onnx and manifest.json, as a server takes them
      trained/             the trained form (training/shipping/trained_model_io.py)
      evidence/rows.parquet     every row of the data set: features, and the volatility that followed
      evidence/scored.parquet   each test part: labels, and every kind's out-of-sample probabilities
      plots/               pictures and reports
      upload.json          how far it has got on its way to MLflow; absent: not begun

A folder gets its name when it is whole, so a run that is there can be read, whenever its writer was killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.bundle import MANIFEST_FILE, MODEL_FILE, Manifest, manifest_json, read_bundle
from common.errors import InputError
from common.files import replace_file
from training.judging.scored_part import Scored
from training.problem.rows import Rows

FORMAT = 1
RUN_FILE = "run.json"
UPLOAD_FILE = "upload.json"
BUNDLE, TRAINED, EVIDENCE, PLOTS = "bundle", "trained", "evidence", "plots"
ROWS_FILE, SCORED_FILE = "rows.parquet", "scored.parquet"
_PROBABILITY, _DECISION = "p:", "threshold:"  # what a kind's columns are called in scored.parquet


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was. Times are of this machine's clock; everything else follows from data, code and settings."""

    format: int = FORMAT
    id: str
    name: str  # of the model
    kind: str
    started_ms: int  # Unix time
    ended_ms: int
    code: str  # `git describe`, or the package's version
    data: tuple[str, ...]  # names of the files
    data_sha256: str
    model_sha256: str
    schema: str
    schema_hash: str
    products: tuple[str, ...]
    parameters: dict[str, str]
    metrics: dict[str, float]  # "final/xgboost/pr_auc", "walk_forward/har/brier", …
    fold_metrics: dict[str, tuple[float | None, ...]] = {}  # the same, fold by fold; null where a fold defines none
    key: str = ""  # of data, code and settings: who asked for the same again need not train again


class Upload(msgspec.Struct, kw_only=True):
    """How far a run has got on its way to MLflow."""

    uri: str
    run_id: str = ""
    done: list[str] = []
    model_id: str = ""
    version: str = ""  # of the registered model

    def has(self, step: str) -> bool:
        return step in self.done


class Evidence(msgspec.Struct, frozen=True):
    """What a run kept of its data: rows, and test parts in time order (the last is the final one)."""

    rows: Rows
    parts: tuple[Scored, ...]


def log_run(
    runs_dir: Path,
    manifest: Manifest,
    model: bytes,
    *,
    trained: Mapping[str, bytes],
    rows: Rows,
    parts: Sequence[Scored],
    products: Sequence[str],
    started_s: float,
    parameters: Mapping[str, object] | None = None,
    fold_metrics: Mapping[str, Sequence[float]] | None = None,
    plots: Mapping[str, bytes] | None = None,
    key: str = "",
) -> Path:
    """Writes one training run; returns its folder. Raises InputError where the disk refuses: nothing is left then.

    trained: training.shipping.trained_model_io.trained_files of the model. rows: every row of the data set. parts: the
    walk-forward folds, then the final part. parameters: beside those that the manifest has. plots: file
    name -> bytes. started_s: Unix time.
    """
    started_ms = int(started_s * 1000)
    run = Run(
        id=_run_id(manifest, started_ms),
        name=manifest.name,
        kind=manifest.kind,
        started_ms=started_ms,
        ended_ms=int(time.time() * 1000),
        code=code_version(),
        data=manifest.data,
        data_sha256=manifest.data_sha256,
        model_sha256=manifest.model_sha256,
        schema=manifest.schema.name,
        schema_hash=manifest.schema.hash,
        products=tuple(products),
        parameters=_parameters(manifest) | {name: str(value) for name, value in (parameters or {}).items()},
        metrics=_metrics(manifest),
        fold_metrics={name: tuple(map(_finite, values)) for name, values in (fold_metrics or {}).items()},
        key=key,
    )
    files = {
        f"{BUNDLE}/{MODEL_FILE}": model,
        f"{BUNDLE}/{MANIFEST_FILE}": manifest_json(manifest),
        **{f"{TRAINED}/{name}": data for name, data in trained.items()},
        **{f"{PLOTS}/{name}": data for name, data in (plots or {}).items()},
        RUN_FILE: msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n",
    }
    return write_run(runs_dir, run, files, Evidence(rows, tuple(parts)))


def write_run(runs_dir: Path, run: Run, files: Mapping[str, bytes], evidence: Evidence) -> Path:
    folder = runs_dir / run.id
    making = runs_dir / f".{run.id}.new-{os.getpid()}"
    try:
        for name, data in files.items():
            path = making / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (making / EVIDENCE).mkdir()
        _write_rows(making / EVIDENCE / ROWS_FILE, evidence.rows)
        _write_parts(making / EVIDENCE / SCORED_FILE, evidence.parts)
        _sync(making)
        making.rename(folder)
    except OSError as error:
        raise InputError(f"run {folder}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def read_run(folder: Path) -> Run:
    """Raises InputError where the folder holds no run."""
    try:
        run = msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=Run)
    except OSError as error:
        raise InputError(f"run {folder}: {RUN_FILE} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"run {folder}: {RUN_FILE}: {error}") from None
    if run.format != FORMAT:
        raise InputError(f"run {folder}: format: expected {FORMAT}, got {run.format}")
    return run


def runs(runs_dir: Path) -> Iterator[tuple[Path, Run]]:
    """The runs of a folder, oldest first; `unreadable` has those that are damaged."""
    found = []
    for folder in _folders(runs_dir):
        with contextlib.suppress(InputError):
            found.append((folder, read_run(folder)))
    yield from sorted(found, key=lambda one: (one[1].started_ms, one[1].id))


def unreadable(runs_dir: Path) -> list[str]:
    """What is wrong with the runs of a folder that cannot be read, a line each."""
    found = []
    for folder in _folders(runs_dir):
        try:
            read_run(folder)
        except InputError as error:
            found.append(str(error))
    return found


def _folders(runs_dir: Path) -> list[Path]:
    if not runs_dir.is_dir():
        return []
    return sorted(one for one in runs_dir.iterdir() if one.is_dir() and not one.name.startswith("."))


def find_run(runs_dir: Path, text: str) -> Path | None:
    """A run by its id, by the beginning of it, or by MLflow's; None where there is none.

    Raises InputError where several begin so.
    """
    found = [folder for folder, run in runs(runs_dir) if run.id.startswith(text) or read_upload(folder).run_id == text]
    exact = [folder for folder in found if folder.name == text]
    if len(exact or found) > 1:
        raise InputError(f"run {text!r}: {len(found)} runs begin so: {', '.join(one.name for one in found[:4])}")
    return next(iter(exact or found), None)


def read_evidence(folder: Path) -> Evidence:
    """Raises InputError where the files are missing, damaged or of another schema than the bundle."""
    import pyarrow as pa

    manifest, _ = read_bundle(folder / BUNDLE)
    try:
        rows = _read_rows(folder / EVIDENCE / ROWS_FILE, manifest)
        return Evidence(rows, _read_parts(folder / EVIDENCE / SCORED_FILE))
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise InputError(f"run {folder}: evidence cannot be read: {' '.join(str(error).split())[:300]}") from None


def read_upload(folder: Path, uri: str = "") -> Upload:
    """How far the run has got; from the start where that was on another server than `uri` (if given)."""
    try:
        upload = msgspec.json.decode((folder / UPLOAD_FILE).read_bytes(), type=Upload)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Upload(uri=uri)
    return upload if uri in ("", upload.uri) else Upload(uri=uri)


def write_upload(folder: Path, upload: Upload) -> None:
    replace_file(folder / UPLOAD_FILE, msgspec.json.encode(upload))


@lru_cache(maxsize=1)
def code_version() -> str:
    """`git describe` of the checkout the code runs from, else the package's version."""
    here = Path(__file__).resolve().parents[3]
    if (here / ".git").exists():
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--tags", "--abbrev=12"]
        try:
            described = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            described = None
        if described and described.returncode == 0:
            return described.stdout.strip()
    try:
        return version("volcast")
    except PackageNotFoundError:
        return "unknown"


def run_key(**parts: object) -> str:
    """A short name for data, code and settings."""
    return hashlib.sha256(msgspec.json.encode(sorted((name, str(value)) for name, value in parts.items()))).hexdigest()[
        :16
    ]


def _run_id(manifest: Manifest, started_ms: int) -> str:
    when = datetime.fromtimestamp(started_ms / 1000, UTC).strftime("%Y%m%dT%H%M%S")
    unique = hashlib.sha256(f"{manifest.model_sha256}{started_ms}{os.getpid()}".encode()).hexdigest()[:6]
    return f"{manifest.name}-{manifest.kind}-{when}-{unique}"


def _parameters(manifest: Manifest) -> dict[str, str]:
    label = manifest.label
    return {
        "kind": manifest.kind,
        "schema": manifest.schema.name,
        "inputs": ",".join(manifest.inputs),
        "horizon_s": f"{label.horizon_s:g}",
        "label_quantile": f"{label.quantile:g}",
        "label_threshold": f"{label.threshold:.8g}",
        "decision_threshold": f"{manifest.decision_threshold:g}",
        **{name: f"{value:g}" for name, value in manifest.parameters.items()},
        **{f"rows.{name}": str(count) for name, count in manifest.rows.items()},
    }


def _metrics(manifest: Manifest) -> dict[str, float]:
    scores = {"final": manifest.metrics, "walk_forward": manifest.walk_forward}
    found = {
        f"{part}/{kind}/{metric}": value
        for part, by_kind in scores.items()
        for kind, values in by_kind.items()
        for metric, value in values.items()
    }
    found["parity_max_abs_error"] = manifest.parity_max_abs_error
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _finite(value: float) -> float | None:
    # JSON has no other number for it.
    return float(value) if math.isfinite(value) else None


def _sync(folder: Path) -> None:
    """Asks the disk to keep every file: a rename that outlives its contents would be a broken run."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _write_rows(path: Path, rows: Rows) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, NDArray[np.generic]] = {
        "time_ns": rows.time_ns,
        "product": rows.product,
        "future_volatility": rows.future_volatility,
        **{f"f:{name}": rows.features[:, number] for number, name in enumerate(rows.schema.names)},
    }
    pq.write_table(pa.table(columns), path, compression="zstd")


def _read_rows(path: Path, manifest: Manifest) -> Rows:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    schema = manifest.feature_schema()
    return Rows(
        schema=schema,
        time_ns=table["time_ns"].to_numpy(),
        product=table["product"].to_numpy(),
        features=np.column_stack([table[f"f:{name}"].to_numpy() for name in schema.names]),
        future_volatility=table["future_volatility"].to_numpy(),
    )


def _write_parts(path: Path, parts: Sequence[Scored]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for part in parts:
        rows = len(part)
        columns: dict[str, object] = {
            "part": pa.array([part.part] * rows).dictionary_encode(),
            "time_ns": part.time_ns,
            "product": part.product,
            "y": part.y,
            "future_volatility": part.future_volatility,
            "threshold": np.full(rows, part.threshold),
            "climatology": np.full(rows, part.climatology),
            **{f"{_PROBABILITY}{kind}": values for kind, values in part.probabilities.items()},
            **{f"{_DECISION}{kind}": np.full(rows, value) for kind, value in part.decision_thresholds.items()},
        }
        tables.append(pa.table(columns))
    pq.write_table(pa.concat_tables(tables, promote_options="default"), path, compression="zstd")


def _read_parts(path: Path) -> tuple[Scored, ...]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    part_of_row = table["part"].to_pylist()
    names = list(dict.fromkeys(part_of_row))
    number = np.array([names.index(one) for one in part_of_row])
    columns = {name: table[name].to_numpy() for name in table.column_names if name != "part"}
    return tuple(
        _part(name, {key: column[number == at] for key, column in columns.items()}) for at, name in enumerate(names)
    )


def _part(name: str, columns: Mapping[str, NDArray[np.generic]]) -> Scored:
    def kinds(prefix: str) -> dict[str, NDArray[np.float64]]:
        # A kind that a part has not is null all through it.
        found = {key.removeprefix(prefix): column for key, column in columns.items() if key.startswith(prefix)}
        values = {kind: np.asarray(column, dtype=np.float64) for kind, column in found.items()}
        return {kind: column for kind, column in values.items() if not np.isnan(column).all()}

    if len(columns["time_ns"]) == 0:
        raise ValueError(f"part {name!r} holds no row")
    return Scored(
        part=name,
        time_ns=np.asarray(columns["time_ns"], dtype=np.int64),
        product=np.asarray(columns["product"], dtype=np.int64),
        y=np.asarray(columns["y"], dtype=np.int8),
        future_volatility=np.asarray(columns["future_volatility"], dtype=np.float64),
        threshold=float(np.asarray(columns["threshold"], dtype=np.float64)[0]),
        climatology=float(np.asarray(columns["climatology"], dtype=np.float64)[0]),
        probabilities=kinds(_PROBABILITY),
        decision_thresholds={kind: float(values[0]) for kind, values in kinds(_DECISION).items()},
    )
