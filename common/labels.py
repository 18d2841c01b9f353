"""`models/<name>/labels.json`: which versions of a model answer. The server and the commands read it here.

    {"stable": "3", "canary": {"version": "4", "share": 0.1}, "shadow": ["5"]}

Only "stable" is required. A version has one label at most.

The labels are a file beside the bundles, so that they are reviewed, copied and rolled back with them. Every replica
reads the same file, and a restart changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from common.bundle import read_inside
from common.errors import BundleError

LABELS_FILE = "labels.json"
MAX_LABELS_BYTES = 64 * 1024
STABLE = "stable"
CANARY = "canary"
SHADOW = "shadow"
Version = Annotated[str, msgspec.Meta(min_length=1)]


class CanaryLabel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Version
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]  # of the routing keys


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    stable: Version
    canary: CanaryLabel | None = None
    shadow: tuple[Version, ...] = ()

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Each (label, version)."""
        yield STABLE, self.stable
        if self.canary is not None:
            yield CANARY, self.canary.version
        for version in self.shadow:
            yield SHADOW, version

    def of(self, version: str) -> str:
        """The label of a version; "" if it has none."""
        return next((label for label, labelled in self.pairs() if labelled == version), "")

    def without(self, version: str) -> Labels:
        """The labels with that version neither canary nor shadow."""
        canary = None if self.canary is None or self.canary.version == version else self.canary
        return Labels(self.stable, canary, tuple(shadow for shadow in self.shadow if shadow != version))

    def with_stable(self, version: str) -> Labels:
        """The labels with that version stable, and neither canary nor shadow."""
        rest = self.without(version)
        return Labels(version, rest.canary, rest.shadow)

    def require_single(self) -> None:
        """Raises BundleError if a version has more than one label."""
        versions = [version for _, version in self.pairs()]
        for version in versions:
            if versions.count(version) > 1:
                both = " and ".join(sorted({label for label, labelled in self.pairs() if labelled == version}))
                raise BundleError(f"{LABELS_FILE}: version {version[:64]!r} has more than one label: {both}")


def decode_labels(data: bytes) -> Labels:
    """Raises BundleError with the reason."""
    try:
        labels = msgspec.json.decode(data, type=Labels)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{LABELS_FILE}: {error}") from None
    labels.require_single()
    return labels


def read_labels(path: Path) -> Labels:
    """The labels in a file. Raises BundleError with the reason."""
    return decode_labels(read_inside(path.parent, path.name, MAX_LABELS_BYTES))
