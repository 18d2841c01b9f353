"""The labels of one model name, assigned to loaded versions. The file itself: common/labels.py."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from common.errors import BundleError
from common.labels import CANARY, LABELS_FILE, STABLE, CanaryLabel, Labels
from common.versions import newest_version, version_order
from server.core.routing import CanarySplit
from server.core.snapshot import Canary, Model, ModelSnapshot


class LabelAssignment(msgspec.Struct, frozen=True):
    """The labels of one name. Empty if no version answers by default."""

    labelled: Mapping[str, Model]
    canary: Canary | None = None
    shadows: tuple[Model, ...] = ()

    def models(self) -> set[Model]:
        return {*self.labelled.values(), *self.shadows}


def assign(labels: Labels, name: str, models: Mapping[str, Model]) -> LabelAssignment:
    """Assigns the labels to `models` (by version).

    Raises BundleError if a version is not loaded, or takes other features than the stable version.
    """
    for label, version in labels.pairs():
        if version not in models:
            known = ", ".join(sorted(models, key=version_order)) or "none"
            raise BundleError(f"{LABELS_FILE}: {label}: version {version[:64]!a} is not loaded; loaded: {known}")
    stable = models[labels.stable]
    for label, version in labels.pairs():
        # One request can reach any of these versions, and its caller does not know which.
        if models[version].schema.hash != stable.schema.hash:
            takes = f"takes schema {models[version].schema.hash}, stable {stable.schema.hash}"
            raise BundleError(f"{LABELS_FILE}: {label}: version {version} {takes}")
    shadows = tuple(models[version] for version in labels.shadow)
    if labels.canary is None:
        return LabelAssignment({STABLE: stable}, None, shadows)
    canary = Canary(models[labels.canary.version], CanarySplit(name, labels.canary.share))
    return LabelAssignment({STABLE: stable, CANARY: canary.model}, canary, shadows)


def default_labels(name: str, models: Mapping[str, Model]) -> LabelAssignment:
    """The labels of a name that has no file: the newest version is stable.

    Raises BundleError if the version names have no order.
    """
    if not models:
        return LabelAssignment({})
    newest = newest_version(models)
    if newest is None:
        known = ", ".join(sorted(models, key=version_order))
        reason = f"no {LABELS_FILE}, and the order of the versions {known} is not known"
        raise BundleError(f'{reason}: choose one with {{"stable": "VERSION"}} in {LABELS_FILE}')
    return assign(Labels(newest), name, models)


def assignment_of(snapshot: ModelSnapshot, name: str) -> LabelAssignment:
    """The labels that a name has in a snapshot."""
    labelled = {label: model for (owner, label), model in snapshot.labelled.items() if owner == name}
    return LabelAssignment(labelled, snapshot.canaries.get(name), snapshot.shadows.get(name, ()))


def labels_of(snapshot: ModelSnapshot, name: str) -> Labels | None:
    """The labels that a name has in a snapshot, by version: the model of a version may have been loaded again since."""
    assignment = assignment_of(snapshot, name)
    if STABLE not in assignment.labelled:
        return None
    canary = assignment.canary
    return Labels(
        assignment.labelled[STABLE].version,
        None if canary is None else CanaryLabel(canary.model.version, canary.split.share),
        tuple(model.version for model in assignment.shadows),
    )
