"""A training run as a folder: everything that goes to MLflow, and everything that the gate reads.

    <runs_dir>/<id>/
      run.json             parameters, metrics, code, data (Run)
      bundle/              model.onnx and manifest.json, as a server takes them
      trained/             the trained form (training/shipping/trained_form.py)
      evidence/            every row and every test part (training/shipping/tracking/evidence.py)
      plots/               pictures and reports
      upload.json          progress of the upload to MLflow; absent: not begun

A folder gets its name when it is whole, so a run that has its name can be read even if its writer was killed.
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
from typing import TYPE_CHECKING

import msgspec

from common.bundle import MANIFEST_FILE, MODEL_FILE, Manifest, manifest_json, read_bundle
from common.check import Check
from common.errors import InputError
from common.files import replace_file

if TYPE_CHECKING:
    # `volcast models list` and `rollback` read runs without the libraries of training.
    from training.forecasting.form import FittedForecast
    from training.forecasting.parts import ForecastPart
    from training.problem.forecast_rows import ForecastRows
    from training.shipping.tracking.evidence import Evidence

FORMAT = 2  # 1: runs of models of a probability, before forecasts
RUN_FILE = "run.json"
UPLOAD_FILE = "upload.json"
BUNDLE, TRAINED, EVIDENCE, PLOTS = "bundle", "trained", "evidence", "plots"


class DataCheck(msgspec.Struct, frozen=True):
    """A verdict that needs the ticks, which a run does not keep."""

    name: str
    passed: bool
    text: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Times are of this machine's clock; everything else follows from data, code and settings."""

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
    metrics: dict[str, float]  # "final/xgboost/crps", "walk_forward/har/brier", …
    fold_metrics: dict[str, tuple[float | None, ...]] = {}  # fold by fold; null if a fold does not define the metric
    key: str = ""  # of data, code and settings: the same key need not be trained again
    look_ahead: DataCheck | None = None  # None: the rows were not computed again from ticks


class Upload(msgspec.Struct, kw_only=True):
    """The progress of a run's upload to MLflow."""

    uri: str
    run_id: str = ""
    done: list[str] = []
    model_id: str = ""
    version: str = ""  # of the registered model

    def has(self, step: str) -> bool:
        return step in self.done


def log_run(
    runs_dir: Path,
    manifest: Manifest,
    model: bytes,
    *,
    trained: FittedForecast,
    rows: ForecastRows,
    parts: Sequence[ForecastPart],
    products: Sequence[str],
    started_s: float,
    parameters: Mapping[str, object] | None = None,
    fold_metrics: Mapping[str, Sequence[float]] | None = None,
    plots: Mapping[str, bytes] | None = None,
    key: str = "",
    look_ahead: Check | None = None,
) -> Path:
    """Writes a training run; returns its folder. Raises InputError if the disk refuses: no file is left then.

    rows: every row, of training and test parts. parts: the walk-forward folds, then the final part. parameters: in
    addition to those of the manifest. plots: file name -> bytes. started_s: Unix time. look_ahead: by
    training.shipping.look_ahead.
    """
    from training.shipping.tracking.evidence import Evidence
    from training.shipping.trained_form import trained_files

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
        look_ahead=None if look_ahead is None else DataCheck(look_ahead.name, look_ahead.passed, look_ahead.text),
    )
    files = {
        f"{BUNDLE}/{MODEL_FILE}": model,
        f"{BUNDLE}/{MANIFEST_FILE}": manifest_json(manifest),
        **{f"{TRAINED}/{name}": data for name, data in trained_files(trained).items()},
        **{f"{PLOTS}/{name}": data for name, data in (plots or {}).items()},
        RUN_FILE: msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n",
    }
    return write_run(runs_dir, run, files, Evidence(rows, tuple(parts)))


def write_run(runs_dir: Path, run: Run, files: Mapping[str, bytes], kept: Evidence) -> Path:
    from training.shipping.tracking import evidence

    folder = runs_dir / run.id
    making = runs_dir / f".{run.id}.new-{os.getpid()}"
    try:
        for name, data in files.items():
            path = making / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        evidence.write(making / EVIDENCE, kept)
        _sync(making)
        making.rename(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"run {folder}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def read_run(folder: Path) -> Run:
    """Raises InputError if the folder holds no run, or a run of an older format."""
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
    kept = []
    for folder in _folders(runs_dir):
        with contextlib.suppress(InputError):
            kept.append((folder, read_run(folder)))
    yield from sorted(kept, key=lambda pair: (pair[1].started_ms, pair[1].id))


def unreadable(runs_dir: Path) -> list[str]:
    """The reason for each run of a folder that cannot be read."""
    reasons = []
    for folder in _folders(runs_dir):
        try:
            read_run(folder)
        except InputError as error:
            reasons.append(str(error))
    return reasons


def _folders(runs_dir: Path) -> list[Path]:
    if not runs_dir.is_dir():
        return []
    return sorted(path for path in runs_dir.iterdir() if path.is_dir() and not path.name.startswith("."))


def find_run(runs_dir: Path, text: str) -> Path | None:
    """A run by its id, by the beginning of its id, or by MLflow's id; None if there is no such run.

    Raises InputError if several ids begin so.
    """
    matches = [
        folder for folder, run in runs(runs_dir) if run.id.startswith(text) or read_upload(folder).run_id == text
    ]
    exact = [folder for folder in matches if folder.name == text]
    if len(exact or matches) > 1:
        first = ", ".join(folder.name for folder in matches[:4])
        raise InputError(f"run {text!r}: {len(matches)} runs begin so: {first}")
    return next(iter(exact or matches), None)


def read_evidence(folder: Path) -> Evidence:
    """Raises InputError if the files are missing, damaged or of another schema than the bundle."""
    from training.shipping.tracking import evidence

    manifest, _ = read_bundle(folder / BUNDLE)
    return evidence.read(folder / EVIDENCE, manifest.feature_schema())


def read_upload(folder: Path, uri: str = "") -> Upload:
    """The progress of the upload; from the start if it was to another server than `uri` (if given)."""
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
        "spike_bps": f"{label.threshold * 1e4:.8g}",
        "decision_threshold": f"{manifest.decision_threshold:g}",
        **{name: f"{value:g}" for name, value in manifest.parameters.items()},
        **{f"rows.{name}": str(count) for name, count in manifest.rows.items()},
    }


def _metrics(manifest: Manifest) -> dict[str, float]:
    scores = {"final": manifest.metrics, "walk_forward": manifest.walk_forward}
    values = {
        f"{part}/{kind}/{metric}": value
        for part, by_kind in scores.items()
        for kind, by_metric in by_kind.items()
        for metric, value in by_metric.items()
    }
    values["parity_max_abs_error"] = manifest.parity_max_abs_error
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _finite(value: float) -> float | None:
    # JSON has no other number for it.
    return float(value) if math.isfinite(value) else None


def _sync(folder: Path) -> None:
    """Flushes every file to the disk: a rename that outlives the contents would be a broken run."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
