"""One loaded model, and the snapshot of all models at one moment. Neither ever changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from common.bundle import ManifestForecast
from common.errors import RequestError
from common.labels import SHADOW
from common.schema import FeatureSchema
from server.core.forecast_query import ResolvedQuery, query_faults, resolve_query
from server.core.predictor import Predictor
from server.core.requests import DEFAULT_QUERY, ForecastQuery
from server.core.routing import CanarySplit


@dataclass(frozen=True, eq=False)
class Model:
    """One version, ready to predict."""

    name: str
    version: str
    schema: FeatureSchema
    threshold: float  # alert level, in [0, 1]
    predictor: Predictor
    digest: str = ""  # SHA-256 over the bundle's files: unchanged bytes are not loaded twice
    example: tuple[float, ...] = ()  # the self-test's row: the model has a probability for it
    forecast: ManifestForecast | None = None  # None: the model forecasts no distribution
    inputs: tuple[str, ...] = ()  # features that the model uses; empty: not known, so each counts as used
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))  # of training rows

    @cached_property
    def default_query(self) -> ResolvedQuery | None:
        """The query of a request without one; None if the model forecasts no distribution."""
        if self.forecast is None:
            return None
        return resolve_query(DEFAULT_QUERY, self.forecast, self.schema, self.full_name)

    def uses(self, feature: str) -> bool:
        """Whether the answer depends on a feature of the schema."""
        return not self.inputs or feature in self.inputs

    @property
    def full_name(self) -> str:
        return f"{self.name}/{self.version}"

    def resolve_query(self, query: ForecastQuery) -> ResolvedQuery | None:
        """The valid query; None if the model forecasts no distribution. Raises RequestError with all faults."""
        if query is DEFAULT_QUERY or query == DEFAULT_QUERY:
            return self.default_query
        if self.forecast is None:
            raise RequestError(query_faults(query, None, self.full_name))
        return resolve_query(query, self.forecast, self.schema, self.full_name)


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
