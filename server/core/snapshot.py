"""One model, and everything that is held at one moment. Neither changes once it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from common.schema import FeatureSchema
from server.core.predictor import Predictor
from server.core.routing import CanarySplit

STABLE = "stable"
CANARY = "canary"
SHADOW = "shadow"


@dataclass(frozen=True, eq=False)
class Model:
    """One version, ready to predict."""

    name: str
    version: str
    schema: FeatureSchema
    threshold: float  # decision threshold, in [0, 1]
    predictor: Predictor
    digest: str = ""  # SHA-256 of the bundle's files: the same bytes are not loaded twice


@dataclass(frozen=True)
class Failure:
    """What is wrong with a bundle, or with the labels of a name (version ""), and why."""

    name: str
    version: str
    reason: str  # for operators: names files by their paths
    folder: str = ""  # the models folder, as it stands in the reason

    @property
    def public_reason(self) -> str:
        """The reason for callers, whom the paths of a server do not concern."""
        return self.reason.replace(f"{self.folder}/", "") if self.folder else self.reason


@dataclass(frozen=True, eq=False)
class Canary:
    """The version that a share of the callers gets instead of the stable one."""

    model: Model
    split: CanarySplit


@dataclass(frozen=True)
class ModelSnapshot:
    """What is served at one moment."""

    models: Mapping[tuple[str, str], Model] = field(default_factory=lambda: MappingProxyType({}))  # name, version
    labelled: Mapping[tuple[str, str], Model] = field(default_factory=lambda: MappingProxyType({}))  # name, label
    failures: tuple[Failure, ...] = ()
    canaries: Mapping[str, Canary] = field(default_factory=lambda: MappingProxyType({}))  # by name
    shadows: Mapping[str, tuple[Model, ...]] = field(default_factory=lambda: MappingProxyType({}))  # by name

    def labels(self, model: Model) -> list[str]:
        labels = [label for (_, label), one in self.labelled.items() if one is model]
        return sorted([*labels, SHADOW] if model in self.shadows.get(model.name, ()) else labels)
