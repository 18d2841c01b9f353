"""One loaded model, and the snapshot of all models at one moment. Neither ever changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from common.labels import SHADOW
from common.schema import FeatureSchema
from server.core.predictor import Predictor
from server.core.routing import CanarySplit


@dataclass(frozen=True, eq=False)
class Model:
    """One version, ready to predict."""

    name: str
    version: str
    schema: FeatureSchema
    threshold: float  # decision threshold, in [0, 1]
    predictor: Predictor
    digest: str = ""  # SHA-256 over the bundle's files: unchanged bytes are not loaded twice
    example: tuple[float, ...] = ()  # the self-test's row: the model has a probability for it


@dataclass(frozen=True)
class Failure:
    """A fault of a bundle, or of the labels of a name (version ""), with the reason."""

    name: str
    version: str
    reason: str  # for operators: contains the paths of files
    folder: str = ""  # the models folder, as it appears in the reason

    @property
    def public_reason(self) -> str:
        """The reason for callers: without the server's paths."""
        return self.reason.replace(f"{self.folder}/", "") if self.folder else self.reason


@dataclass(frozen=True, eq=False)
class Canary:
    """The version that a share of the callers gets instead of the stable version."""

    model: Model
    split: CanarySplit


@dataclass(frozen=True)
class ModelSnapshot:
    """All models at one moment."""

    models: Mapping[tuple[str, str], Model] = field(default_factory=lambda: MappingProxyType({}))  # name, version
    labelled: Mapping[tuple[str, str], Model] = field(default_factory=lambda: MappingProxyType({}))  # name, label
    failures: tuple[Failure, ...] = ()
    canaries: Mapping[str, Canary] = field(default_factory=lambda: MappingProxyType({}))  # by name
    shadows: Mapping[str, tuple[Model, ...]] = field(default_factory=lambda: MappingProxyType({}))  # by name

    def labels(self, model: Model) -> list[str]:
        labels = [label for (_, label), labelled in self.labelled.items() if labelled is model]
        return sorted([*labels, SHADOW] if model in self.shadows.get(model.name, ()) else labels)
