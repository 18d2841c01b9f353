"""The models a server holds: loaded from bundles, checked, warmed up, swapped in one assignment.

Layout on disk: `<models>/<name>/<version>/{model.onnx, manifest.json}`. The label "stable" points at the
highest numeric version of each name. Readers take `Repository.held` once and work on that: it never
changes, a load makes a new one. A bundle that cannot be loaded never replaces one that could.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from common.bundle import Manifest, read_bundle
from common.errors import BundleError, InputError, ModelNotFoundError
from common.schema import FeatureSchema
from server.core.predictor import Predictor
from server.core.requests import Selection

STABLE = "stable"
SELF_TEST_TOLERANCE = 1e-6
# One row, a burst, a full message: each shape of batch makes ONNX Runtime plan its memory once.
WARM_UP_ROWS = (1, 2, 32, 256)


@dataclass(frozen=True, eq=False)
class Model:
    """One version, ready to predict."""

    name: str
    version: str
    schema: FeatureSchema
    threshold: float  # decision threshold, in [0, 1]
    predictor: Predictor


@dataclass(frozen=True)
class Failure:
    """A bundle that could not be loaded, and why."""

    name: str
    version: str
    reason: str


def _nothing() -> Mapping[tuple[str, str], Model]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Held:
    """What is served at one moment."""

    models: Mapping[tuple[str, str], Model] = field(default_factory=_nothing)  # by name and version
    labelled: Mapping[tuple[str, str], Model] = field(default_factory=_nothing)  # by name and label
    failures: tuple[Failure, ...] = ()

    def labels(self, model: Model) -> list[str]:
        return sorted(label for (_, label), one in self.labelled.items() if one is model)


class Repository:
    def __init__(self, default_model: str) -> None:
        self.default_model = default_model
        self.held = Held()
        self.load_failures = 0  # since the start

    def load(self, folder: Path) -> Held:
        """Loads every bundle below `folder` and puts what could be loaded in place of what was held.

        A version that was held before and cannot be loaded now stays as it was; the failure is told in
        `failures`. Raises InputError where the folder itself cannot be read.
        """
        models: dict[tuple[str, str], Model] = {}
        failures: list[Failure] = []
        for name, version, bundle in find_bundles(folder):
            try:
                models[name, version] = load_bundle(bundle, name, version)
            except BundleError as error:
                failures.append(Failure(name, version, str(error)))
                self.load_failures += 1
                previous = self.held.models.get((name, version))
                if previous is not None:
                    models[name, version] = previous
        self.held = Held(MappingProxyType(models), MappingProxyType(_stable(models.values())), tuple(failures))
        return self.held

    def resolve(self, selection: Selection) -> Model:
        """Raises ModelNotFoundError, naming the field that led nowhere."""
        held = self.held
        name = selection.name or self.default_model
        model = (
            held.models.get((name, selection.version))
            if selection.version
            else held.labelled.get((name, selection.label or STABLE))
        )
        if model is None:
            raise self._not_found(held, name, selection)
        return model

    def _not_found(self, held: Held, name: str, selection: Selection) -> ModelNotFoundError:
        versions = [version for held_name, version in held.models if held_name == name]
        if not versions:
            names = ", ".join(sorted({held_name for held_name, _ in held.models})) or "none"
            return ModelNotFoundError.of("model.name", f"no model {name[:64]!a}; held: {names}")
        if selection.version:
            known = ", ".join(sorted(versions, key=version_order))
            what = f"model {name!a} has no version {selection.version[:64]!a}; held: {known}"
            return ModelNotFoundError.of("model.version", what)
        known = ", ".join(sorted(label for held_name, label in held.labelled if held_name == name))
        what = f"model {name!a} has no label {selection.label[:64]!a}; assigned: {known}"
        return ModelNotFoundError.of("model.label", what)


def find_bundles(folder: Path) -> list[tuple[str, str, Path]]:
    """(name, version, path) of each folder that stands where a bundle belongs, in order."""
    try:
        names = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [
            (name.name, version.name, version)
            for name in names
            for version in sorted(name.iterdir(), key=lambda path: version_order(path.name))
            if version.is_dir() and not version.name.startswith(".")
        ]
    except OSError as error:
        raise InputError(f"models folder {folder}: {error.strerror}") from None


def version_order(version: str) -> tuple[int, str]:
    """Numbers by value, above every other name."""
    return (int(version) if version.isdecimal() else -1, version)


def load_bundle(folder: Path, name: str, version: str) -> Model:
    """Reads, checks and warms up one bundle; raises BundleError naming the bundle and what is wrong with it."""
    manifest, graph = read_bundle(folder)
    if (manifest.name, manifest.version) != (name, version):
        raise BundleError(
            f"bundle {folder}: the manifest says {manifest.name}/{manifest.version}, the folder {name}/{version}"
        )
    schema = manifest.feature_schema()
    try:
        predictor = Predictor(graph, len(schema))
        _self_test(predictor, manifest, len(schema))
        for rows in WARM_UP_ROWS:
            predictor.predict(np.tile(np.array(manifest.self_test.features, np.float64), (rows, 1)))
    except BundleError as error:
        raise BundleError(f"bundle {folder}: {error}") from None
    return Model(name, version, schema, manifest.decision_threshold, predictor)


def _self_test(predictor: Predictor, manifest: Manifest, width: int) -> None:
    test = manifest.self_test
    if len(test.features) != width:
        raise BundleError(f"self_test.features: expected {width} values, got {len(test.features)}")
    try:
        probabilities = predictor.predict(np.array([test.features], np.float64))
    except Exception as error:  # whatever a broken graph makes ONNX Runtime raise
        raise BundleError(f"self-test: the model cannot be run: {' '.join(str(error).split())[:300]}") from None
    if probabilities.shape != (1,) or not abs(probabilities[0] - test.probability) <= SELF_TEST_TOLERANCE:
        got = ", ".join(f"{one:.9g}" for one in probabilities[:3])
        raise BundleError(f"self-test: expected probability {test.probability:.9g}, got {got or 'none'}")


def _stable(models: Iterable[Model]) -> dict[tuple[str, str], Model]:
    ordered = sorted(models, key=lambda model: version_order(model.version))
    return {(model.name, STABLE): model for model in ordered}
