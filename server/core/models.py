"""The models of a server: loaded from bundles, checked, warmed up, swapped in one assignment.

A reader takes `Repository.snapshot` once and works on it: a snapshot never changes, and a load makes a new one. A
bundle that cannot be loaded never replaces a loaded version. A call finishes with the Model it began with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from common.errors import BundleError, ModelNotFoundError
from common.labels import CANARY, STABLE, Labels, read_labels
from common.versions import version_order
from server.core.bundles import FolderScan, load_model, scan_folder
from server.core.labels import LabelAssignment, assign, assignment_of, default_labels, labels_of
from server.core.requests import Selection
from server.core.snapshot import Canary, Failure, Model, ModelSnapshot

ByVersion = dict[str, Model]


@dataclass(frozen=True)
class ReloadResult:
    """The changes of one load."""

    snapshot: ModelSnapshot
    loaded: tuple[Model, ...]  # new versions, and versions whose bytes changed
    retired: tuple[Model, ...]  # in the snapshot before, not in this one
    refused: tuple[Failure, ...]  # failures that the snapshot before did not have
    relabelled: tuple[str, ...]  # names whose labels or shares changed

    @property
    def swapped(self) -> bool:
        return bool(self.loaded or self.retired or self.relabelled)


class Repository:
    """wall_s: the time of day, for `last_good_load_s`; the core reads no clock of its own."""

    def __init__(self, default_model: str, wall_s: Callable[[], float] = lambda: 0.0) -> None:
        self.default_model = default_model
        self.snapshot = ModelSnapshot()
        self.load_failures = 0  # since the start; a failure that persists counts once
        self.swaps = 0  # since the start
        self.last_good_load_s = 0.0  # time of the last load without a failure; 0: never
        self._wall_s = wall_s
        self._loading = threading.Lock()

    def load(self, folder: Path) -> ModelSnapshot:
        """As `reload`; returns the snapshot only."""
        return self.reload(folder).snapshot

    def reload(self, folder: Path) -> ReloadResult:
        """Loads the bundles below `folder` that changed and swaps them in, on the calling thread, one load at a time.

        A version that was loaded before and cannot be loaded now stays as it was; `ModelSnapshot.failures` has the
        reason. Raises InputError if the folder itself cannot be read; then nothing changes.
        """
        with self._loading:
            before = self.snapshot
            after = _Load(before, self.default_model, scan_folder(folder)).run()
            failures = tuple(replace(failure, folder=str(folder)) for failure in after.failures)
            after = replace(after, failures=failures)
            result = _compare(before, after)
            self.snapshot = after
            self.swaps += result.swapped
            self.load_failures += len(result.refused)
            if not after.failures:
                self.last_good_load_s = self._wall_s()
            return result

    def resolve(self, selection: Selection, routing_key: str = "") -> Model:
        """The model that answers a request.

        routing_key: decides between stable and canary if `selection` names neither version nor label.
        Raises ModelNotFoundError with the field that has no match.
        """
        snapshot = self.snapshot
        name = selection.name or self.default_model
        if selection.version:
            model = snapshot.models.get((name, selection.version))
        elif routing_key and snapshot.canaries and not selection.label:
            canary = snapshot.canaries.get(name)
            chosen = CANARY if canary is not None and canary.split.picks(routing_key) else STABLE
            model = snapshot.labelled.get((name, chosen))
        else:
            model = snapshot.labelled.get((name, selection.label or STABLE))
        if model is None:
            raise _not_found(snapshot, name, selection)
        return model


def _not_found(snapshot: ModelSnapshot, name: str, selection: Selection) -> ModelNotFoundError:
    versions = [version for owner, version in snapshot.models if owner == name]
    if not versions:
        names = ", ".join(sorted({owner for owner, _ in snapshot.models})) or "none"
        return ModelNotFoundError.of("model.name", f"no model {name[:64]!a}; loaded: {names}")
    if selection.version:
        known = ", ".join(sorted(versions, key=version_order))
        what = f"model {name!a} has no version {selection.version[:64]!a}; loaded: {known}"
        return ModelNotFoundError.of("model.version", what)
    known = ", ".join(sorted(label for owner, label in snapshot.labelled if owner == name)) or "none"
    what = f"model {name!r} has no label {(selection.label or STABLE)[:64]!r}; assigned: {known}"
    if not selection.label:
        what += "".join(f" ({f.public_reason})" for f in snapshot.failures if (f.name, f.version) == (name, ""))
    return ModelNotFoundError.of("model.label", what)


class _Load:
    """Makes the next snapshot from the snapshot before and a scan of the folder."""

    def __init__(self, before: ModelSnapshot, default_model: str, scan: FolderScan) -> None:
        self._before = before
        self._default_model = default_model
        self._scan = scan
        self._failures = list(scan.failures)
        self._unread = {failure.name for failure in scan.failures if not failure.version}
        self._models: dict[tuple[str, str], Model] = {}
        self._labelled: dict[tuple[str, str], Model] = {}
        self._canaries: dict[str, Canary] = {}
        self._shadows: dict[str, tuple[Model, ...]] = {}

    def run(self) -> ModelSnapshot:
        on_disk = self._load_bundles()
        for failure in self._scan.failures:
            # If a folder cannot be read any more, keep its versions, as for a bundle that cannot be loaded any more.
            for (name, version), model in self._before.models.items():
                if name == failure.name and failure.version in ("", version):
                    on_disk.setdefault(name, {})[version] = model
        for name in sorted({*on_disk, *(name for name, _ in self._before.models)}):
            self._retain_versions(name, on_disk.get(name, {}))
        return ModelSnapshot(
            MappingProxyType(self._models),
            MappingProxyType(self._labelled),
            tuple(self._failures),
            MappingProxyType(self._canaries),
            MappingProxyType(self._shadows),
        )

    def _load_bundles(self) -> dict[str, ByVersion]:
        on_disk: dict[str, ByVersion] = {}
        for (name, version), folder in self._scan.bundles.items():
            previous = self._before.models.get((name, version))
            try:
                model: Model | None = load_model(folder, name, version, previous)
            except BundleError as error:
                self._failures.append(Failure(name, version, str(error)))
                model = previous
            if model is not None:
                on_disk.setdefault(name, {})[version] = model
        return on_disk

    def _retain_versions(self, name: str, on_disk: ByVersion) -> None:
        """Decides which versions of a name stay, and assigns its labels."""
        before = {version: model for (owner, version), model in self._before.models.items() if owner == name}
        gone = {version: model for version, model in before.items() if version not in on_disk}
        if name in self._unread:
            assignment, kept = assignment_of(self._before, name), {}
        elif on_disk:
            assignment = self._assign(name, on_disk, gone)
            kept = {version: model for version, model in gone.items() if model in assignment.models()}
        elif name == self._default_model:
            # If the default model's folder disappears, keep serving its loaded versions: a mistaken delete must not
            # take the service down.
            assignment, kept = assignment_of(self._before, name), gone
        else:
            return
        for version in kept:
            self._failures.append(Failure(name, version, "its folder is gone; the version is kept, as it is in use"))
        for version, model in {**on_disk, **kept}.items():
            self._models[name, version] = model
        for label, model in assignment.labelled.items():
            self._labelled[name, label] = model
        if assignment.canary is not None:
            self._canaries[name] = assignment.canary
        if assignment.shadows:
            self._shadows[name] = assignment.shadows

    def _assign(self, name: str, on_disk: ByVersion, gone: ByVersion) -> LabelAssignment:
        path = self._scan.labels.get(name)
        labels = None
        models = {**gone, **on_disk}
        try:
            if path is None:
                return default_labels(name, on_disk)
            labels = read_labels(path)
            return assign(labels, name, models)
        except BundleError as error:
            reason = str(error)
        previous = labels_of(self._before, name)
        if path is None and previous is not None:
            reason += f"; version {previous.stable} stays stable"
        self._failures.append(Failure(name, "", reason))
        if previous is not None:
            return assign(previous, name, models)
        # On first load there are no previous labels to fall back to. Use only `stable` if that version exists; never
        # invent a canary.
        if labels is not None and labels.stable in models:
            return assign(Labels(labels.stable), name, models)
        return LabelAssignment({})


def _compare(before: ModelSnapshot, after: ModelSnapshot) -> ReloadResult:
    names = sorted({name for snapshot in (before, after) for name, _ in snapshot.models})
    return ReloadResult(
        after,
        loaded=tuple(model for key, model in after.models.items() if before.models.get(key) is not model),
        retired=tuple(model for key, model in before.models.items() if key not in after.models),
        refused=tuple(failure for failure in after.failures if failure not in before.failures),
        relabelled=tuple(name for name in names if labels_of(before, name) != labels_of(after, name)),
    )
