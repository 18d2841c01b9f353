"""Puts a graph of somebody's own into the models folder, as a bundle that the server's load checks accept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cli.models.adapt import Adapted, adapt, probe_rows
from cli.models.features import SchemaChoice
from cli.models.plan import plan
from common.bundle import (
    ADDED_KIND,
    MANIFEST_FORMAT,
    Manifest,
    ManifestFeature,
    ManifestSchema,
    SelfTest,
)
from common.errors import BundleError, UsageError
from common.model_store import ModelStore
from common.schema import FeatureSchema
from server.core.bundles import load_model

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Added:
    """The version that a graph became."""

    name: str
    version: str
    folder: Path
    schema: FeatureSchema
    threshold: float
    label: str  # of the version, as a server goes by it: "stable" for the first one of a name
    changes: tuple[str, ...]  # of the graph, a line each
    is_new: bool  # False: the same bundle was there already


def add_graph(
    source: Any,
    store: ModelStore,
    choice: SchemaChoice,
    *,
    output: str | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    rows: NDArray[np.float64] | None = None,
) -> Added:
    """Adapts a ModelProto, runs the server's load checks and writes the next version, without a label.

    rows: typical ones, (rows, features), to try the graph with; without them rows are drawn.
    Raises BundleError if the graph cannot be served: nothing is written then.
    """
    tried = probe_rows(choice.examples) if rows is None else rows
    adapted = adapt(source, plan(source, choice.schema, output), tried)
    return write_adapted(adapted, store, choice.schema, threshold)


def write_adapted(
    graph: Adapted, store: ModelStore, schema: FeatureSchema, threshold: float, *, parity_error: float = 0.0
) -> Added:
    """Writes the bundle as the next version, if a server would load it.

    Raises BundleError, InputError, or UsageError if the folder does not say which version is stable.
    """
    manifest = _manifest(graph, store.name, schema, threshold, parity_error)

    def before_it_appears(folder: Path, version: str) -> None:
        try:
            load_model(folder, store.name, version)
        except BundleError as error:
            raise BundleError(str(error).removeprefix(f"bundle {folder}: ")) from None
        store.pin()

    with store.locked():
        versions = store.versions()
        if versions and store.effective_labels() is None:
            # Nothing is stable that could be pinned, so the new version might answer by being there.
            raise UsageError(
                f"model {store.name}: its versions {', '.join(versions)} have no order and there is no labels.json; "
                "first write one that names the stable version (docs/models.md)"
            )
        existing = store.find(manifest)
        version = existing or store.put(manifest, graph.model, {}, before_it_appears)
        labels = store.effective_labels()
    label = labels.of(version) if labels is not None else ""
    folder = store.path(version)
    return Added(store.name, version, folder, schema, threshold, label, graph.changes, existing is None)


def _manifest(graph: Adapted, name: str, schema: FeatureSchema, threshold: float, parity_error: float) -> Manifest:
    usable = np.flatnonzero(np.isfinite(graph.probabilities))
    row = int(usable[0])
    return Manifest(
        format=MANIFEST_FORMAT,
        name=name,
        version="1",
        kind=ADDED_KIND,
        created=datetime.now(UTC).date().isoformat(),
        schema=ManifestSchema(
            schema.name,
            schema.hash,
            tuple(ManifestFeature(feature.name, feature.unit) for feature in schema.features),
        ),
        decision_threshold=threshold,
        model_sha256=hashlib.sha256(graph.model).hexdigest(),
        opset=graph.opset,
        parity_max_abs_error=float(f"{parity_error:.2g}"),
        self_test=SelfTest(tuple(graph.rows[row].tolist()), float(graph.probabilities[row])),
        inputs=schema.names,
    )
