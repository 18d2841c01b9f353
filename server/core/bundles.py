"""Bundles on disk: where they lie, whether they changed, and what makes one fit to serve.

Layout: `<models>/<name>/<version>/{model.onnx, manifest.json}` and, where people chose, `<models>/<name>/labels.json`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.bundle import (
    MANIFEST_FILE,
    MODEL_FILE,
    Manifest,
    bundle_files,
    parse_bundle,
    read_inside,
)
from common.errors import BundleError, InputError
from common.versions import version_order
from server.core.arrays import Vector
from server.core.graph_scan import scan_graph
from server.core.labels import LABELS_FILE, MAX_LABELS_BYTES, Labels, decode_labels
from server.core.predictor import Predictor
from server.core.snapshot import Failure, Model

SELF_TEST_TOLERANCE = 1e-6
# One row, a burst, a full message: each shape of batch makes ONNX Runtime plan its memory once.
WARM_UP_ROWS = (1, 2, 32, 256)
MAX_NAME = 128
_NOT_OURS = {"lost+found"}  # at the root of a disk that is mounted for the models


@dataclass
class FolderScan:
    """What lies in the models folder."""

    bundles: dict[tuple[str, str], Path]  # by name and version, in order
    labels: dict[str, Path]  # the labels file of each name that has one
    failures: list[Failure]


def scan_folder(folder: Path) -> FolderScan:
    """Every folder that stands where a bundle belongs; raises InputError where the models folder cannot be read."""
    scan = FolderScan({}, {}, [])
    try:
        root = folder.resolve(strict=True)
        names = _folders(root)
    except (OSError, RuntimeError) as error:
        raise InputError(f"models folder {folder}: {getattr(error, 'strerror', None) or error}") from None
    for name in names:
        try:
            _require_plain_name(name)
            _require_below(name, root)
            versions = _folders(name)
        except (BundleError, OSError, RuntimeError) as error:
            reason = f"folder cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            scan.failures.append(Failure(ascii(name.name)[1:-1], "", reason))
            continue
        if os.path.lexists(name / LABELS_FILE):
            scan.labels[name.name] = name / LABELS_FILE
        for version in sorted(versions, key=lambda path: version_order(path.name)):
            try:
                _require_plain_name(version)
                _require_below(version, root)
                scan.bundles[name.name, version.name] = version
            except (BundleError, OSError, RuntimeError) as error:
                scan.failures.append(Failure(name.name, ascii(version.name)[1:-1], str(error)))
    return scan


def fingerprint(folder: Path) -> tuple[tuple[str, ...], ...]:
    """What changes when anything below the models folder does: names, times, sizes. Reads no file."""
    try:
        names = _folders(folder)
    except OSError as error:
        return ((str(folder), str(error.errno)),)
    return tuple(entry for name in names for entry in _stamps(name))


def _stamps(name: Path) -> Iterator[tuple[str, ...]]:
    yield _stamp(name / LABELS_FILE)
    try:
        for version in _folders(name):
            yield from (_stamp(version / file) for file in (MANIFEST_FILE, MODEL_FILE))
    except OSError as error:
        yield (str(name), str(error.errno))


def _stamp(path: Path) -> tuple[str, ...]:
    try:
        seen = path.stat()
        return (str(path), str(seen.st_mtime_ns), str(seen.st_ctime_ns), str(seen.st_size), str(seen.st_ino))
    except OSError as error:
        return (str(path), str(error.errno))


def _folders(folder: Path) -> list[Path]:
    listed = (path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in _NOT_OURS)
    return sorted(path for path in listed if path.is_dir())


def _require_plain_name(folder: Path) -> None:
    # It is told in answers, metrics and logs.
    if not (folder.name.isascii() and folder.name.isprintable() and len(folder.name) <= MAX_NAME):
        raise BundleError(f"folder name: expected at most {MAX_NAME} printable ASCII characters")


def _require_below(folder: Path, root: Path) -> None:
    if not folder.resolve(strict=True).is_relative_to(root):
        raise BundleError("the folder is a link that leads outside the models folder")


def read_labels(path: Path) -> Labels:
    """Raises BundleError, saying what is wrong with the file."""
    return decode_labels(read_inside(path.parent, path.name, MAX_LABELS_BYTES))


def load_model(folder: Path, name: str, version: str, held: Model | None = None) -> Model:
    """Reads, checks and warms up one bundle; `held` itself where it was made of the same bytes.

    Raises BundleError naming the bundle and what is wrong with it.
    """
    manifest_bytes, graph = bundle_files(folder)
    digest = hashlib.sha256(hashlib.sha256(manifest_bytes).digest() + hashlib.sha256(graph).digest()).hexdigest()
    if held is not None and held.digest == digest:
        return held
    manifest = parse_bundle(folder, manifest_bytes, graph)
    if (manifest.name, manifest.version) != (name, version):
        said = f"{manifest.name[:MAX_NAME]}/{manifest.version[:MAX_NAME]}"
        raise BundleError(f"bundle {folder}: the manifest says {ascii(said)[1:-1]}, the folder {name}/{version}")
    schema = manifest.feature_schema()
    try:
        _check_opset(manifest, scan_graph(graph).opsets.get("", 0))
        predictor = Predictor(graph, len(schema))
        _self_test(predictor, manifest, len(schema))
        _warm_up(predictor, manifest)
    except BundleError as error:
        raise BundleError(f"bundle {folder}: {error}") from None
    return Model(name, version, schema, manifest.decision_threshold, predictor, digest)


def _check_opset(manifest: Manifest, opset: int) -> None:
    if opset != manifest.opset:
        raise BundleError(f"opset: the manifest says {manifest.opset}, model.onnx uses {opset or 'none'}")


def _self_test(predictor: Predictor, manifest: Manifest, width: int) -> None:
    test = manifest.self_test
    if len(test.features) != width:
        raise BundleError(f"self_test.features: expected {width} values, got {len(test.features)}")
    probabilities = _run(predictor, manifest, 1)
    if probabilities.shape != (1,) or not abs(probabilities[0] - test.probability) <= SELF_TEST_TOLERANCE:
        got = ", ".join(f"{one:.9g}" for one in probabilities[:3])
        raise BundleError(f"self-test: expected probability {test.probability:.9g}, got {got or 'none'}")


def _warm_up(predictor: Predictor, manifest: Manifest) -> None:
    """Also shows that rows of a batch are scored one by one: callers share batches."""
    for rows in WARM_UP_ROWS:
        probabilities = _run(predictor, manifest, rows)
        if probabilities.shape != (rows,):
            raise BundleError(f"warm-up: expected {rows} probabilities for {rows} rows, got {probabilities.size}")
        worst = float(np.abs(probabilities - manifest.self_test.probability).max())
        if not worst <= SELF_TEST_TOLERANCE:
            raise BundleError(f"warm-up: a row scores {worst:.3g} off when it is one of {rows}")


def _run(predictor: Predictor, manifest: Manifest, rows: int) -> Vector:
    try:
        return predictor.predict(np.tile(np.array(manifest.self_test.features, np.float64), (rows, 1)))
    except Exception as error:  # whatever a broken graph makes ONNX Runtime raise
        reason = " ".join(str(error).split())[:300]
        raise BundleError(f"self-test: the model cannot be run on {rows} rows: {reason}") from None
