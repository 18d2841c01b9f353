"""The models folder as promotion writes it: bundles, labels.json, and who was champion before.

The layout is the server's (docs/models.md). Commands and training write it, the server only reads it; a test
compares the two. Beside it lies `.history.json`, which no server reads.

Every write is a rename, and their order keeps the folder right at each moment: a label never names a version
that is not there.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from common.bundle import MANIFEST_FILE, MODEL_FILE, Manifest, has_bundle_file, manifest_json, read_bundle
from common.errors import BundleError, InputError, UnavailableError, UsageError
from common.files import replace_file
from common.labels import LABELS_FILE, Labels, read_labels
from common.versions import newest_version, next_version, version_order

HISTORY_FILE = ".history.json"
LOCK_FILE = ".lock"
MAX_NAME = 128  # of a model
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
Role = Literal["candidate", "champion"]


class Reign(msgspec.Struct, frozen=True):
    """A version that became champion, and the one before it."""

    version: str
    previous: str
    run: str
    at_ms: int  # Unix time


class History(msgspec.Struct, frozen=True):
    champions: tuple[Reign, ...] = ()
    candidate: str = ""  # version under trial
    candidate_since_ms: int = 0


@dataclass(frozen=True, slots=True)
class Moved:
    """The result of a promotion or rollback."""

    name: str
    version: str
    role: Role
    labels: Labels
    changed: bool  # False: the version had the role already
    previous: str = ""  # champion before


class ModelStore:
    """The versions of one model name below the models folder."""

    def __init__(self, models_dir: Path, name: str) -> None:
        self.name = name
        self.folder = models_dir / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Allows one writer at a time. Raises UnavailableError at once if there is another.

        Leaves neither the lock file nor folders that it made and that are still empty.
        """
        missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        descriptor = self._lock()
        try:
            yield
        finally:
            with suppress(OSError):
                (self.folder / LOCK_FILE).unlink()
                for folder in missing:  # the innermost first; rmdir refuses a folder with files
                    folder.rmdir()
            os.close(descriptor)

    def _lock(self) -> int:
        """The descriptor of the locked file."""
        path = self.folder / LOCK_FILE
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise InputError(f"models folder {self.folder}: {error.strerror}") from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The writer before may have removed the file since: then the next writer locks another file.
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                raise UnavailableError(f"model {self.name}: another command is changing it; try again") from None
            except FileNotFoundError:
                pass
            os.close(descriptor)

    def versions(self) -> dict[str, Path]:
        """The folders of bundles, in the order of `version_order`. Folders without a bundle file are no versions."""
        folders = [folder for folder in self._folders() if has_bundle_file(folder)]
        return {folder.name: folder for folder in sorted(folders, key=lambda folder: version_order(folder.name))}

    def _folders(self) -> list[Path]:
        try:
            return [path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        except OSError:
            return []

    def path(self, version: str) -> Path:
        """The folder of a version. Raises UsageError if it does not exist."""
        versions = self.versions()
        if version not in versions:
            known = ", ".join(versions) or "none"
            raise UsageError(f"model {self.name} has no version {version!r} in {self.folder}; there: {known}")
        return versions[version]

    def labels(self) -> Labels | None:
        """The labels in labels.json; None if there is no file. Raises InputError if the file is wrong."""
        path = self.folder / LABELS_FILE
        if not os.path.lexists(path):
            return None
        try:
            return read_labels(path)
        except BundleError as error:
            raise InputError(f"{path}: {str(error).removeprefix(f'{LABELS_FILE}: ')}") from None

    def effective_labels(self) -> Labels | None:
        """The labels that a server uses on its first load: those of the file, else the newest version as stable.

        None if there is no version, or if the versions have no order.
        """
        labels = self.labels()
        if labels is None and (newest := newest_version(self.versions())):
            return Labels(newest)
        return labels

    def answering(self) -> Path:
        """The folder of the stable version, which answers calls that select nothing. Raises InputError if none is."""
        labels = self.effective_labels()
        if labels is None and (versions := self.versions()):
            raise InputError(
                f"no stable version of {self.name} in {self.folder}: {', '.join(versions)} have no order; name one in "
                f"{LABELS_FILE}, or name a bundle with --bundle"
            )
        if labels is None:
            raise InputError(
                f"no version of {self.name} in {self.folder}: name one with --bundle, or make one with volcast train"
            )
        return self.path(labels.stable)

    def history(self) -> History:
        try:
            return msgspec.json.decode((self.folder / HISTORY_FILE).read_bytes(), type=History)
        except FileNotFoundError:
            return History()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{self.folder / HISTORY_FILE}: {error}") from None

    def write_history(self, history: History) -> None:
        replace_file(self.folder / HISTORY_FILE, msgspec.json.encode(history))

    def write_labels(self, labels: Labels) -> None:
        """Raises InputError if a version has two labels or no folder, or if the disk refuses the write."""
        try:
            labels.require_single()
        except BundleError as error:
            raise InputError(f"{self.folder}: {error}") from None
        versions = self.versions()
        for _, version in labels.pairs():
            if version not in versions:
                raise InputError(f"{self.folder / LABELS_FILE}: version {version} is not there")
        replace_file(self.folder / LABELS_FILE, msgspec.json.encode(labels) + b"\n")

    def pin(self) -> None:
        """Writes labels.json if there is none and a version is stable. Otherwise a new version would become stable."""
        labels = self.effective_labels()
        if labels is not None and self.labels() is None:
            self.write_labels(labels)

    def find(self, manifest: Manifest) -> str | None:
        """The version with the same bundle. The bundle's own name, version and date do not matter."""
        for version, folder in self.versions().items():
            try:
                stored, _ = read_bundle(folder)
            except BundleError:
                continue
            same = {"name": manifest.name, "version": manifest.version, "created": manifest.created}
            if msgspec.structs.replace(stored, **same) == manifest:
                return version
        return None

    def version_of(self, bundle: Path) -> str:
        """The version with the same bundle as that folder; "" if there is none. Raises BundleError."""
        manifest, _ = read_bundle(bundle)
        return self.find(manifest) or ""

    def withdraw(self, version: str) -> None:
        """Removes a candidate's label; its bundle stays."""
        with self.locked():
            labels, history = self.labels(), self.history()
            if labels is not None:
                self.write_labels(labels.without(version))
            if history.candidate == version:
                self.write_history(History(history.champions))

    def rollback(self) -> Moved:
        """Makes the previous champion stable again. A second rollback goes one champion further back.

        Raises UsageError if there is no previous champion, or if its version is gone. A rollback must not wait for the
        registry: `training.shipping.aliases.reconcile` updates it afterwards.
        """
        with self.locked():
            labels, history = self.labels(), self.history()
            if labels is None:
                raise UsageError(f"model {self.name}: no labels.json, so nothing was ever promoted")
            reigns = [number for number, reign in enumerate(history.champions) if reign.version == labels.stable]
            if not reigns:
                raise UsageError(f"model {self.name}: no champion is known before version {labels.stable}")
            number = reigns[-1]
            previous = history.champions[number].previous
            self.path(previous)
            after = labels.with_stable(previous)
            # Labels first, since servers read them. Then the used entry is removed.
            self.write_labels(after)
            self.write_history(History(history.champions[:number]))
        return Moved(self.name, previous, "champion", after, True, labels.stable)

    def put(
        self,
        manifest: Manifest,
        model: bytes,
        extra: Mapping[str, bytes],
        before_it_appears: Callable[[Path, str], None] = lambda folder, version: None,
    ) -> str:
        """Writes the bundle as a version of this name and returns the version. An existing copy is not written again.

        Uses the bundle's own version if it is above all others, else the next number. extra: files that no server
        reads. before_it_appears: checks the complete bundle in a folder that no server reads. If it raises, or if the
        disk refuses a write (InputError), nothing is left.
        """
        existing = self.find(manifest)
        if existing is not None:
            return existing
        version = max(manifest.version, self._next(), key=version_order)
        numbered = msgspec.structs.replace(manifest, name=self.name, version=version)
        files = {**extra, MODEL_FILE: model, MANIFEST_FILE: manifest_json(numbered)}
        making = self.folder / f".{version}.new-{os.getpid()}"
        try:
            making.mkdir(parents=True)
            for name, data in files.items():
                with (making / name).open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            before_it_appears(making, version)
            making.rename(self.folder / version)
        except OSError as error:
            raise InputError(f"bundle {self.folder / version}: cannot be written: {error.strerror or error}") from None
        finally:
            shutil.rmtree(making, ignore_errors=True)
        return version

    def _next(self) -> str:
        return next_version([folder.name for folder in self._folders()])


def model_name(name: str, field: str = "NAME") -> str:
    """The name itself. Raises UsageError, with the field, if it is not valid.

    A name that begins with "-" would be read as an option by the commands.
    """
    if len(name) > MAX_NAME or _NAME.fullmatch(name) is None:
        expected = f"letters, digits, - and _, a letter or digit first (at most {MAX_NAME})"
        raise UsageError(f"{field}: expected {expected}, got {name[:MAX_NAME]!r}")
    return name


def model_names(models_dir: Path) -> list[str]:
    """Empty if there is no folder. Raises InputError if it cannot be read."""
    try:
        return sorted(path.name for path in models_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"models folder {models_dir}: {error.strerror}") from None
