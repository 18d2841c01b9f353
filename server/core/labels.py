"""Which versions answer: the labels of one model, as `models/<name>/labels.json` gives them.

    {"stable": "3", "canary": {"version": "4", "share": 0.1}, "shadow": ["5"]}

Only "stable" is required. A name without the file has its default_labels numeric version as stable. What people
decide is a file beside the bundles: it is reviewed, copied and rolled back as they are, every replica reads
the same, and a restart changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec

from common.errors import BundleError
from common.versions import version_order
from server.core.routing import CanarySplit
from server.core.snapshot import CANARY, STABLE, Canary, Model

LABELS_FILE = "labels.json"
MAX_LABELS_BYTES = 64 * 1024
Version = Annotated[str, msgspec.Meta(min_length=1)]


class CanaryLabel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Version
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]  # of the routing keys


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    stable: Version
    canary: CanaryLabel | None = None
    shadow: tuple[Version, ...] = ()

    def named(self) -> Iterator[tuple[str, str]]:
        """(label, version) of each."""
        yield STABLE, self.stable
        if self.canary is not None:
            yield CANARY, self.canary.version
        for version in self.shadow:
            yield "shadow", version


class LabelAssignment(msgspec.Struct, frozen=True):
    """The labels of one name, on models that are held."""

    labelled: Mapping[str, Model]
    canary: Canary | None = None
    shadows: tuple[Model, ...] = ()

    def models(self) -> set[Model]:
        return {*self.labelled.values(), *self.shadows}


def decode_labels(data: bytes) -> Labels:
    """Raises BundleError, saying what is wrong with the file."""
    try:
        labels = msgspec.json.decode(data, type=Labels)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{LABELS_FILE}: {error}") from None
    versions = [version for _, version in labels.named()]
    for version in versions:
        if versions.count(version) > 1:
            raise BundleError(f"{LABELS_FILE}: version {version[:64]!a} has more than one label")
    return labels


def assign(labels: Labels, name: str, models: Mapping[str, Model]) -> LabelAssignment:
    """Puts the labels on `models` (by version). Raises BundleError where one of them cannot stand."""
    for label, version in labels.named():
        if version not in models:
            known = ", ".join(sorted(models, key=version_order)) or "none"
            raise BundleError(f"{LABELS_FILE}: {label}: version {version[:64]!a} is not held; held: {known}")
    stable = models[labels.stable]
    for label, version in labels.named():
        # The same rows go to all of them: the callers do not know which one they get.
        if models[version].schema.hash != stable.schema.hash:
            takes = f"takes schema {models[version].schema.hash}, stable {stable.schema.hash}"
            raise BundleError(f"{LABELS_FILE}: {label}: version {version} {takes}")
    shadows = tuple(models[version] for version in labels.shadow)
    if labels.canary is None:
        return LabelAssignment({STABLE: stable}, None, shadows)
    canary = Canary(models[labels.canary.version], CanarySplit(name, labels.canary.share))
    return LabelAssignment({STABLE: stable, CANARY: canary.model}, canary, shadows)


def default_labels(name: str, models: Mapping[str, Model]) -> LabelAssignment:
    """The labels of a name that has no file."""
    if not models:
        return LabelAssignment({})
    return assign(Labels(max(models, key=version_order)), name, models)
