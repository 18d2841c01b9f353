"""A bundle of gradient-boosted trees, fitted to synthetic rows: 200 trees of depth 5."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.native.peers import NotBuiltError
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
from common.schema import CORE_1, CORE_1_EXAMPLE

TREES, DEPTH, ROWS, SEED = 200, 5, 3000, 1
TOLERANCE = 1e-5  # the graph adds float32, scikit-learn float64
OPSET, ML_OPSET, IR_VERSION = 18, 3, 10
EXAMPLE = np.array([[CORE_1_EXAMPLE[name] for name in CORE_1.names]])
SPAN = ManifestSpan(0, 1, ROWS, ROWS // 2)

Matrix = NDArray[np.float64]


def tree_bundle(models: Path, trees: int = TREES, rows: int = ROWS) -> str:
    """Writes `<models>/volatility/1` and says what it holds; raises NotBuiltError without the training extra."""
    try:
        from sklearn.ensemble import GradientBoostingClassifier
    except ModuleNotFoundError as absent:
        raise NotBuiltError(f"{absent.name} is not installed (the training extra)") from None
    matrix, labels = _synthetic(rows)
    fitted = GradientBoostingClassifier(n_estimators=trees, max_depth=DEPTH, random_state=SEED).fit(matrix, labels)
    model = _graph(fitted)
    folder = models / "volatility" / "1"
    folder.mkdir(parents=True)
    error = _parity(model, fitted, matrix)
    (folder / MODEL_FILE).write_bytes(model)
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.encode(_manifest(model, error, _score(model, EXAMPLE)[0])))
    nodes = sum(tree.tree_.node_count for tree in fitted.estimators_[:, 0])
    return f"{trees} trees of depth {DEPTH}, {nodes:,} nodes, fitted to {rows:,} synthetic rows"


def _synthetic(count: int) -> tuple[Matrix, NDArray[np.int64]]:
    """Rows around the example, and labels too noisy for any tree to end early; float32, as the graph compares."""
    random = np.random.default_rng(SEED)
    rows = EXAMPLE * random.lognormal(0, 0.5, (count, len(CORE_1)))
    rows = rows.astype(np.float32).astype(np.float64)
    signal = np.log(rows / EXAMPLE) @ random.normal(0, 1, len(CORE_1))
    return rows, (signal + random.normal(0, 1, count) > 0).astype(np.int64)


def _graph(fitted: Any) -> bytes:
    """float64 rows to probability, by the ONNX operator TreeEnsembleRegressor with a logistic link."""
    from onnx import TensorProto, helper

    base = float(fitted._raw_predict_init(EXAMPLE)[0, 0])
    trees = helper.make_node(
        "TreeEnsembleRegressor",
        ["narrow"],
        ["logit"],
        domain="ai.onnx.ml",
        aggregate_function="SUM",
        base_values=[base],
        n_targets=1,
        **_ensemble([one.tree_ for one in fitted.estimators_[:, 0]], fitted.learning_rate),
    )
    nodes = [
        helper.make_node("Cast", ["features"], ["narrow"], to=TensorProto.FLOAT),
        trees,
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    taken = helper.make_tensor_value_info("features", TensorProto.DOUBLE, ["rows", len(CORE_1)])
    given = helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["rows", 1])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    graph = helper.make_graph(nodes, "trees", [taken], [given])
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
    return model


def _ensemble(trees: list[Any], learning_rate: float) -> dict[str, Any]:
    """The operator's attributes: all nodes of all trees, one list for each property."""
    names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    nodes: dict[str, list[Any]] = {f"nodes_{name}": [] for name in names}
    leaves: dict[str, list[Any]] = {f"target_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}
    for number, tree in enumerate(trees):
        leaf = tree.children_left < 0
        columns = (
            [number] * tree.node_count,
            range(tree.node_count),
            np.where(leaf, 0, tree.feature).tolist(),
            np.where(leaf, 0, _below(tree.threshold)).tolist(),
            ["LEAF" if one else "BRANCH_LEQ" for one in leaf],
            np.where(leaf, 0, tree.children_left).tolist(),
            np.where(leaf, 0, tree.children_right).tolist(),
        )
        for values, more in zip(nodes.values(), columns, strict=True):
            values.extend(more)
        where = np.flatnonzero(leaf)
        leaves["target_treeids"] += [number] * len(where)
        leaves["target_nodeids"] += where.tolist()
        leaves["target_ids"] += [0] * len(where)
        leaves["target_weights"] += (learning_rate * tree.value[where, 0, 0]).tolist()
    return nodes | leaves


def _below(thresholds: Matrix) -> NDArray[np.float32]:
    """The largest float32 not above each: a float32 feature then falls on the same side as in float64."""
    narrow = thresholds.astype(np.float32)
    return np.where(narrow > thresholds, np.nextafter(narrow, np.float32(-np.inf)), narrow)


def _score(model: bytes, rows: Matrix) -> list[float]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return [float(one) for one in session.run(["probability"], {"features": rows})[0][:, 0]]


def _parity(model: bytes, fitted: Any, rows: Matrix) -> float:
    """The largest difference to what was fitted, on every row; raises where the export is wrong."""
    error = float(np.max(np.abs(np.array(_score(model, rows)) - fitted.predict_proba(rows)[:, 1])))
    if error > TOLERANCE:
        raise RuntimeError(f"the exported trees differ from the fitted ones by {error:g}")
    return error


def _manifest(model: bytes, error: float, example: float) -> Manifest:
    return Manifest(
        format=MANIFEST_FORMAT,
        name="volatility",
        version="1",
        kind="trees",
        created="2026-01-01",
        schema=ManifestSchema(
            CORE_1.name, CORE_1.hash, tuple(ManifestFeature(f.name, f.unit) for f in CORE_1.features)
        ),
        label=ManifestLabel(60.0, 0.9, 0.001),
        decision_threshold=0.5,
        training=SPAN,
        evaluation=SPAN,
        metrics={},
        data=("synthetic",),
        data_sha256="",
        model_sha256=hashlib.sha256(model).hexdigest(),
        opset=OPSET,
        parity_max_abs_error=error,
        self_test=SelfTest(tuple(EXAMPLE[0].tolist()), example),
    )
