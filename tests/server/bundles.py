"""Bundles for tests: a logistic regression on standardized features, and its NumPy twin."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from common.bundle import (
    MANIFEST_FILE,
    MANIFEST_FORMAT,
    MODEL_FILE,
    Manifest,
    ManifestFeature,
    ManifestLabel,
    ManifestSchema,
    ManifestSpan,
    SelfTest,
)
from common.schema import CORE_1, CORE_1_EXAMPLE, Feature, FeatureSchema

WIDTH = len(CORE_1)
EXAMPLE = tuple(CORE_1_EXAMPLE[name] for name in CORE_1.names)
COLUMNS = np.array([2, 3, 4, 5, 6, 7, 9, 10])  # scale-free ones: no absolute price
OTHER_SCHEMA = FeatureSchema("other/1", (*CORE_1.features[:-1], Feature("other", "1", "")))
SPAN = ManifestSpan(0, 1, 100, 10)


@dataclass(frozen=True)
class Logistic:
    """Sigmoid of the weighted, standardized columns; different for each seed."""

    seed: int

    def parameters(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        random = np.random.default_rng(self.seed)
        n = len(COLUMNS)
        return random.normal(0, 0.1, n), random.uniform(0.5, 2, n), random.normal(0, 1, (n, 1))

    def predict(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        mean, scale, weights = self.parameters()
        logits = ((matrix[:, COLUMNS] - mean) / scale) @ weights
        return np.asarray(1 / (1 + np.exp(-logits[:, 0])))

    def graph(
        self,
        *,
        width: int = WIDTH,
        input_name: str = "features",
        input_type: int = TensorProto.DOUBLE,
        rows: int | str = "rows",
        output_name: str = "probability",
    ) -> onnx.ModelProto:
        mean, scale, weights = self.parameters()
        constants = [
            numpy_helper.from_array(value, name)
            for name, value in (("columns", COLUMNS), ("mean", mean), ("scale", scale), ("weights", weights))
        ]
        nodes = [
            helper.make_node("Cast", [input_name], ["wide"], to=TensorProto.DOUBLE),
            helper.make_node("Gather", ["wide", "columns"], ["chosen"], axis=1),
            helper.make_node("Sub", ["chosen", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "scale"], ["scaled"]),
            helper.make_node("MatMul", ["scaled", "weights"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], [output_name]),
        ]
        taken = helper.make_tensor_value_info(input_name, input_type, [rows, width])
        given = helper.make_tensor_value_info(output_name, TensorProto.DOUBLE, [rows, 1])
        graph = helper.make_graph(nodes, "logistic", [taken], [given], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def write_bundle(
    models: Path,
    name: str = "volatility",
    version: str = "1",
    *,
    seed: int = 1,
    threshold: float = 0.5,
    graph: onnx.ModelProto | None = None,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> Path:
    """Writes `<models>/<name>/<version>`. graph, change: the defects of this bundle."""
    model = Logistic(seed)
    data = (graph or model.graph()).SerializeToString()
    features = tuple(ManifestFeature(feature.name, feature.unit) for feature in CORE_1.features)
    manifest = Manifest(
        format=MANIFEST_FORMAT,
        name=name,
        version=version,
        kind="logistic",
        created="2026-01-01",
        schema=ManifestSchema(CORE_1.name, CORE_1.hash, features),
        label=ManifestLabel(60.0, 0.9, 0.001),
        decision_threshold=threshold,
        training=SPAN,
        evaluation=SPAN,
        metrics={},
        data=(),
        data_sha256="",
        model_sha256=hashlib.sha256(data).hexdigest(),
        opset=18,
        parity_max_abs_error=0.0,
        self_test=SelfTest(EXAMPLE, float(model.predict(np.array([EXAMPLE]))[0])),
    )
    folder = models / name / version
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(data)
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.encode(change(manifest)))
    return folder


def other_schema(manifest: Manifest) -> Manifest:
    """Replaces the last feature; the number of features stays."""
    features = tuple(ManifestFeature(feature.name, feature.unit) for feature in OTHER_SCHEMA.features)
    return msgspec.structs.replace(manifest, schema=ManifestSchema(OTHER_SCHEMA.name, OTHER_SCHEMA.hash, features))


def rows(count: int, seed: int = 0) -> NDArray[np.float64]:
    """A plausible matrix (count, features of core/1)."""
    random = np.random.default_rng(seed)
    return np.asarray(EXAMPLE) * random.uniform(0.5, 2, (count, WIDTH))


def named(row: Sequence[float]) -> dict[str, float]:
    return dict(zip(CORE_1.names, (float(value) for value in row), strict=True))
