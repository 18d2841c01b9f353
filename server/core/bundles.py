"""Bundles on disk: finds them, notices changes, and loads one.

Layout: `<models>/<name>/<version>/{model.onnx, manifest.json}`; `<models>/<name>/labels.json` is optional. A folder
without one of these files is ignored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.bundle import MANIFEST_FILE, MODEL_FILE, bundle_files, has_bundle_file, parse_bundle
from common.errors import BundleError, InputError
from common.labels import LABELS_FILE
from common.versions import version_order
from server.core.load_checks import check_model
from server.core.snapshot import Failure, Model

MAX_NAME = 128
_NOT_OURS = {"lost+found"}  # in the root folder of a disk that is mounted for the models


@dataclass
class FolderScan:
    """The content of the models folder."""

    bundles: dict[tuple[str, str], Path]  # by name and version, in order
    labels: dict[str, Path]  # the labels file of each name that has one
    failures: list[Failure]


def scan_folder(folder: Path) -> FolderScan:
    """Every bundle and labels file; raises InputError if the models folder cannot be read."""
    scan = FolderScan({}, {}, [])
    try:
        root = folder.resolve(strict=True)
        names = _folders(root)
    except (OSError, RuntimeError) as error:
        raise InputError(f"models folder {folder}: {getattr(error, 'strerror', None) or error}") from None
    for name in names:
        try:
            versions = [version for version in _folders(name) if has_bundle_file(version)]
            has_labels = os.path.lexists(name / LABELS_FILE)
            if not (versions or has_labels):
                continue
            _require_plain_name(name)
            _require_below(name, root)
        except (BundleError, OSError, RuntimeError) as error:
            reason = f"folder cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            scan.failures.append(Failure(ascii(name.name)[1:-1], "", reason))
            continue
        if has_labels:
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
    """A value that differs after any change below the models folder: names, times, sizes. Reads no file."""
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
        status = path.stat()
        times = (str(status.st_mtime_ns), str(status.st_ctime_ns))
        return (str(path), *times, str(status.st_size), str(status.st_ino))
    except OSError as error:
        return (str(path), str(error.errno))


def _folders(folder: Path) -> list[Path]:
    listed = (path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in _NOT_OURS)
    return sorted(path for path in listed if path.is_dir())


def _require_plain_name(folder: Path) -> None:
    # The name appears in answers, metrics and logs.
    if not (folder.name.isascii() and folder.name.isprintable() and len(folder.name) <= MAX_NAME):
        raise BundleError(f"folder name: expected at most {MAX_NAME} printable ASCII characters")


def _require_below(folder: Path, root: Path) -> None:
    if not folder.resolve(strict=True).is_relative_to(root):
        raise BundleError("the folder is a link that leads outside the models folder")


def load_model(folder: Path, name: str, version: str, previous: Model | None = None) -> Model:
    """Reads, checks and warms up one bundle; returns `previous` if the bytes are unchanged.

    Raises BundleError, which names the bundle and the fault.
    """
    manifest_bytes, graph = bundle_files(folder)
    digest = hashlib.sha256(hashlib.sha256(manifest_bytes).digest() + hashlib.sha256(graph).digest()).hexdigest()
    if previous is not None and previous.digest == digest:
        return previous
    manifest = parse_bundle(folder, manifest_bytes, graph)
    if (manifest.name, manifest.version) != (name, version):
        written = f"{manifest.name[:MAX_NAME]}/{manifest.version[:MAX_NAME]}"
        raise BundleError(f"bundle {folder}: the manifest has {ascii(written)[1:-1]}, the folder {name}/{version}")
    try:
        predictor = check_model(graph, manifest)
    except BundleError as error:
        raise BundleError(f"bundle {folder}: {error}") from None
    schema, example = manifest.feature_schema(), manifest.self_test.features
    facts = manifest.forecast, manifest.inputs, manifest.ranges
    return Model(name, version, schema, manifest.decision_threshold, predictor, digest, example, *facts)
