"""The models a server holds: loaded from bundles, checked, warmed up, swapped in one assignment.

Readers take `Repository.snapshot` once and work on that: it never changes, a load makes a new one. A bundle
that cannot be loaded never replaces one that could, and whoever holds a Model may finish with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from common.errors import BundleError, ModelNotFoundError
from common.versions import version_order
from server.core.bundles import FolderScan, load_model, read_labels, scan_folder
from server.core.labels import CanaryLabel, LabelAssignment, Labels, assign, default_labels
from server.core.requests import Selection
from server.core.snapshot import CANARY, STABLE, Canary, Failure, Model, ModelSnapshot

ByVersion = dict[str, Model]


@dataclass(frozen=True)
class ReloadResult:
    """What one load did."""

    snapshot: ModelSnapshot
    loaded: tuple[Model, ...]  # new, or made of other bytes than before
    retired: tuple[Model, ...]  # no longer held under their name and version
    refused: tuple[Failure, ...]  # failures that were not there before
    relabelled: tuple[str, ...]  # names whose labels or shares are others now

    @property
    def swapped(self) -> bool:
        return bool(self.loaded or self.retired or self.relabelled)


class Repository:
    """wall_s: the time of day, for `last_good_load_s`; the core reads no clock of its own."""

    def __init__(self, default_model: str, wall_s: Callable[[], float] = lambda: 0.0) -> None:
        self.default_model = default_model
        self.snapshot = ModelSnapshot()
        self.load_failures = 0  # since the start, each reason counted once for as long as it stands
        self.swaps = 0  # since the start
        self.last_good_load_s = 0.0  # when a load last refused nothing; 0: never
        self._wall_s = wall_s
        self._loading = threading.Lock()

    def load(self, folder: Path) -> ModelSnapshot:
        """As `reload`."""
        return self.reload(folder).snapshot

    def reload(self, folder: Path) -> ReloadResult:
        """Loads what changed below `folder` and swaps it in; one at a time, on the calling thread.

        A version that was held before and cannot be loaded now stays as it was; the failure is told in
        `ModelSnapshot.failures`. Raises InputError where the folder itself cannot be read; then nothing changes.
        """
        with self._loading:
            before = self.snapshot
            snapshot = _Load(before, self.default_model, scan_folder(folder)).run()
            snapshot = replace(snapshot, failures=tuple(replace(one, folder=str(folder)) for one in snapshot.failures))
            changes = _compare(before, snapshot)
            self.snapshot = snapshot
            self.swaps += changes.swapped
            self.load_failures += len(changes.refused)
            if not snapshot.failures:
                self.last_good_load_s = self._wall_s()
            return changes

    def resolve(self, selection: Selection, routing_key: str = "") -> Model:
        """The model that is to answer. routing_key: decides between stable and canary where nothing is selected.

        Raises ModelNotFoundError, naming the field that led nowhere.
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
            raise self._not_found(snapshot, name, selection)
        return model

    def _not_found(self, snapshot: ModelSnapshot, name: str, selection: Selection) -> ModelNotFoundError:
        versions = [version for loaded_name, version in snapshot.models if loaded_name == name]
        if not versions:
            names = ", ".join(sorted({loaded_name for loaded_name, _ in snapshot.models})) or "none"
            return ModelNotFoundError.of("model.name", f"no model {name[:64]!a}; held: {names}")
        if selection.version:
            known = ", ".join(sorted(versions, key=version_order))
            what = f"model {name!a} has no version {selection.version[:64]!a}; held: {known}"
            return ModelNotFoundError.of("model.version", what)
        known = ", ".join(sorted(label for loaded_name, label in snapshot.labelled if loaded_name == name)) or "none"
        what = f"model {name!a} has no label {(selection.label or STABLE)[:64]!a}; assigned: {known}"
        return ModelNotFoundError.of("model.label", what)


class _Load:
    """One load: what is held next, from what is held and what lies in the folder."""

    def __init__(self, before: ModelSnapshot, default_model: str, found: FolderScan) -> None:
        self._before = before
        self._default_model = default_model
        self._found = found
        self._failures = list(found.failures)
        self._unread = {failure.name for failure in found.failures if not failure.version}
        self._models: dict[tuple[str, str], Model] = {}
        self._labelled: dict[tuple[str, str], Model] = {}
        self._canaries: dict[str, Canary] = {}
        self._shadows: dict[str, tuple[Model, ...]] = {}

    def run(self) -> ModelSnapshot:
        on_disk: dict[str, ByVersion] = {}
        for (name, version), bundle in self._found.bundles.items():
            previous = self._before.models.get((name, version))
            try:
                model: Model | None = load_model(bundle, name, version, previous)
            except BundleError as error:
                self._failures.append(Failure(name, version, str(error)))
                model = previous
            if model is not None:
                on_disk.setdefault(name, {})[version] = model
        for failure in self._found.failures:
            # What could be read before and cannot be now is kept as a bundle is that cannot be loaded.
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

    def _retain_versions(self, name: str, on_disk: ByVersion) -> None:
        """Decides which versions of a name stay, and puts its labels on them."""
        snapshot = {version: model for (one, version), model in self._before.models.items() if one == name}
        gone = {version: model for version, model in snapshot.items() if version not in on_disk}
        if name in self._unread:
            assigned, kept = _assigned(self._before, name), {}
        elif on_disk:
            assigned = self._assign(name, on_disk, gone)
            kept = {version: model for version, model in gone.items() if model in assigned.models()}
        elif name == self._default_model:
            # The only ones of the model that is answered by default: a folder by mistake away ends no service.
            assigned, kept = _assigned(self._before, name), gone
        else:
            return
        for version in kept:
            self._failures.append(Failure(name, version, "its folder is gone; the version is kept, as it is in use"))
        for version, model in {**on_disk, **kept}.items():
            self._models[name, version] = model
        for label, model in assigned.labelled.items():
            self._labelled[name, label] = model
        if assigned.canary is not None:
            self._canaries[name] = assigned.canary
        if assigned.shadows:
            self._shadows[name] = assigned.shadows

    def _assign(self, name: str, on_disk: ByVersion, gone: ByVersion) -> LabelAssignment:
        path = self._found.labels.get(name)
        if path is None:
            return default_labels(name, on_disk)
        labels = None
        models = {**gone, **on_disk}
        try:
            labels = read_labels(path)
            return assign(labels, name, models)
        except BundleError as error:
            self._failures.append(Failure(name, "", str(error)))
        stayed = _labels(self._before, name)
        if stayed is not None:
            return assign(stayed, name, models)
        # At the start there are none to stay by: the stable one alone, or nothing that nobody chose.
        if labels is not None and labels.stable in models:
            return assign(Labels(labels.stable), name, models)
        return LabelAssignment({})


def _assigned(snapshot: ModelSnapshot, name: str) -> LabelAssignment:
    labelled = {label: model for (one, label), model in snapshot.labelled.items() if one == name}
    return LabelAssignment(labelled, snapshot.canaries.get(name), snapshot.shadows.get(name, ()))


def _labels(snapshot: ModelSnapshot, name: str) -> Labels | None:
    """The labels of a name as a file would say them: by version, since a version may be loaded anew."""
    assigned = _assigned(snapshot, name)
    if STABLE not in assigned.labelled:
        return None
    canary = assigned.canary
    return Labels(
        assigned.labelled[STABLE].version,
        None if canary is None else CanaryLabel(canary.model.version, canary.split.share),
        tuple(one.version for one in assigned.shadows),
    )


def _compare(before: ModelSnapshot, after: ModelSnapshot) -> ReloadResult:
    return ReloadResult(
        after,
        loaded=tuple(one for key, one in after.models.items() if before.models.get(key) is not one),
        retired=tuple(one for key, one in before.models.items() if key not in after.models),
        refused=tuple(one for one in after.failures if one not in before.failures),
        relabelled=tuple(name for name in _names(before, after) if _labels(before, name) != _labels(after, name)),
    )


def _names(*snapshot: ModelSnapshot) -> list[str]:
    return sorted({name for one in snapshot for name, _ in one.models})
