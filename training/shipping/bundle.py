"""A bundle on disk: the folder that it goes to, and a write that is whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from common.bundle import MANIFEST_FILE, MODEL_FILE, Manifest, manifest_json
from common.errors import InputError, UsageError
from common.versions import next_version


@dataclass(frozen=True, slots=True)
class Bundle:
    manifest: Manifest
    model: bytes


def bundle_folder(out: Path, name: str, version: int | None, force: bool) -> Path:
    """Where a bundle goes: the version asked for, or the next free one. Raises UsageError if it is taken."""
    if version is None:
        folder = out / name / next_version([path.name for path in (out / name).glob("*") if path.is_dir()])
    else:
        folder = out / name / str(version)
    if folder.exists() and not force:
        raise UsageError(f"bundle {folder} exists: choose another --version, or replace it with --force")
    return folder


def write_bundle(folder: Path, bundle: Bundle, extra: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """Writes beside the folder and renames, so that a server never sees half a bundle.

    extra: files that go along and no server reads. Raises InputError if the disk refuses; what was there before is
    then still there.
    """
    making = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    replaced = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    try:
        making.mkdir(parents=True)
        _write(making / MODEL_FILE, bundle.model)
        _write(making / MANIFEST_FILE, manifest_json(bundle.manifest))
        for name, data in extra.items():
            _write(making / name, data)
        if folder.exists():
            folder.rename(replaced)
        making.rename(folder)
    except OSError as error:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise InputError(f"bundle {folder}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(making, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
