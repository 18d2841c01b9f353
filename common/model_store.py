"""The models folder as promotion writes it: bundles, labels.json, and who was champion before.

The layout is the server's (docs/models.md). Commands and training write it, the server only reads it; a test
compares the two. Beside it lies `.history.json`, which no server reads.

Every write is a rename, and their order keeps the folder right at each moment: a label never names a version
that is not there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from common.bundle import MANIFEST_FILE, MODEL_FILE, Manifest, manifest_json, read_bundle
from common.errors import BundleError, InputError, UnavailableError, UsageError
from common.files import replace_file
from common.versions import version_order

LABELS_FILE = "labels.json"
HISTORY_FILE = ".history.json"
LOCK_FILE = ".lock"
MAX_NAME = 128  # of a model
Role = Literal["candidate", "champion"]


class CanaryLabel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: str
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """labels.json, as server/core/labels.py reads it."""

    stable: str
    canary: CanaryLabel | None = None
    shadow: tuple[str, ...] = ()

    def of(self, version: str) -> str:
        """The label a version has; "" for none."""
        if version == self.stable:
            return "stable"
        if self.canary is not None and version == self.canary.version:
            return "canary"
        return "shadow" if version in self.shadow else ""

    def without(self, version: str) -> Labels:
        """The labels with that version neither canary nor shadow."""
        canary = None if self.canary is None or self.canary.version == version else self.canary
        return Labels(self.stable, canary, tuple(shadow for shadow in self.shadow if shadow != version))

    def with_stable(self, version: str) -> Labels:
        """The labels with that version stable, and neither canary nor shadow."""
        rest = self.without(version)
        return Labels(version, rest.canary, rest.shadow)


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
        """One writer at a time; raises UnavailableError at once where there is another."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"models folder {self.folder}: {error.strerror}") from None
        try:
            _lock(descriptor, f"model {self.name}: another command is changing it; try again")
            yield
        finally:
            os.close(descriptor)

    def versions(self) -> dict[str, Path]:
        """Folders of versions, in order: numbers by value, above every other name."""
        try:
            found = [one for one in self.folder.iterdir() if one.is_dir() and not one.name.startswith(".")]
        except OSError:
            return {}
        return {one.name: one for one in sorted(found, key=lambda one: version_order(one.name))}

    def path(self, version: str) -> Path:
        """Raises UsageError where the version is not there."""
        versions = self.versions()
        if version not in versions:
            known = ", ".join(versions) or "none"
            raise UsageError(f"model {self.name} has no version {version!r} in {self.folder}; there: {known}")
        return versions[version]

    def labels(self) -> Labels | None:
        """What labels.json says; None where there is none. Raises InputError where it is wrong."""
        path = self.folder / LABELS_FILE
        try:
            return msgspec.json.decode(path.read_bytes(), type=Labels)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: {error}") from None

    def effective_labels(self) -> Labels | None:
        """What a server goes by: the file, else the highest version as stable; None where there is no version."""
        labels = self.labels()
        if labels is None and (versions := self.versions()):
            return Labels(list(versions)[-1])
        return labels

    def answering(self) -> Path:
        """The folder of the version that callers get who select nothing. Raises InputError where there is none."""
        labels = self.effective_labels()
        if labels is None:
            raise InputError(f"no version of {self.name} in {self.folder}: name a bundle with --bundle")
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
        """Raises InputError where a version it names is not there, or the disk refuses."""
        versions = self.versions()
        for version in (labels.stable, *labels.shadow, *([labels.canary.version] if labels.canary else [])):
            if version not in versions:
                raise InputError(f"{self.folder / LABELS_FILE}: version {version} is not there")
        replace_file(self.folder / LABELS_FILE, msgspec.json.encode(labels) + b"\n")

    def pin(self) -> None:
        """Writes down what is stable now, where only the order of versions says so: else a new version would be
        stable by being there."""
        labels = self.effective_labels()
        if labels is not None and self.labels() is None:
            self.write_labels(labels)

    def find(self, manifest: Manifest) -> str | None:
        """The version that holds this very bundle, whatever number the bundle itself came with."""
        for version, folder in self.versions().items():
            try:
                held, _ = read_bundle(folder)
            except BundleError:
                continue
            if msgspec.structs.replace(held, name=manifest.name, version=manifest.version) == manifest:
                return version
        return None

    def version_of(self, bundle: Path) -> str:
        """The version that holds the bundle of that folder; "" where none does. Raises BundleError."""
        manifest, _ = read_bundle(bundle)
        return self.find(manifest) or ""

    def withdraw(self, version: str) -> None:
        """Takes a candidate off trial; its bundle stays."""
        with self.locked():
            labels, history = self.labels(), self.history()
            if labels is not None:
                self.write_labels(labels.without(version))
            if history.candidate == version:
                self.write_history(History(history.champions))

    def rollback(self) -> Moved:
        """Gives the stable label back to the champion before; one more goes one further back.

        Raises UsageError where none was before, or its version is gone. No registry is asked: going back must not
        wait for one (`training.promotion.reconcile` brings it up to date).
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
            # Labels first: they are what counts. The entry goes once it is used.
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
        """Writes the bundle as a version of this name and returns the version; nothing where it is there already.

        Takes the bundle's own version where that is above all others, else the next number. extra: files beside it that
        no server reads. before_it_appears: checks the whole bundle in a folder that no server looks at; if it raises,
        nothing is left. Raises InputError where the disk refuses: nothing is left then.
        """
        existing = self.find(manifest)
        if existing is not None:
            return existing
        version = max(manifest.version, self._next(), key=version_order)
        told = msgspec.structs.replace(manifest, name=self.name, version=version)
        files = {**extra, MODEL_FILE: model, MANIFEST_FILE: manifest_json(told)}
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
        return str(max((int(one) for one in self.versions() if one.isdecimal()), default=0) + 1)


def model_name(name: str) -> str:
    """The name itself. Raises UsageError if no server would take a folder of that name."""
    plain = name.replace("-", "").replace("_", "")
    if not (plain.isascii() and plain.isalnum() and len(name) <= MAX_NAME):
        raise UsageError(f"NAME: expected letters, digits, - and _ (at most {MAX_NAME}), got {name[:MAX_NAME]!r}")
    return name


def model_names(models_dir: Path) -> list[str]:
    """None where there is no folder; raises InputError where it cannot be read."""
    try:
        return sorted(one.name for one in models_dir.iterdir() if one.is_dir() and not one.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"models folder {models_dir}: {error.strerror}") from None


def _lock(descriptor: int, busy: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UnavailableError(busy) from None
