"""ONNX Runtime takes each row to the leaf that XGBoost takes it to."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import xgboost
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.training.forecasting.samples import sample_rows
from training.forecasting.form import FittedForecast
from training.forecasting.graph import IR_VERSION, ML_OPSET, OPSET, forecast_graph
from training.forecasting.kinds import kind_named
from training.forecasting.trees import tree_attributes


@pytest.fixture(scope="module")
def fitted() -> FittedForecast:
    return kind_named("xgboost").fit(sample_rows(2000))


@pytest.fixture(scope="module")
def attributes(fitted: FittedForecast) -> dict[str, list[Any]]:
    return tree_attributes(fitted.trees)


def in_onnx(attributes: dict[str, list[Any]], units: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums of leaves of (n, units), (n,), by a graph of the trees alone."""
    named: dict[str, Any] = {**attributes, "n_targets": 1}
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **named)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None]) for name in ("x", "y")]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    graph = helper.make_graph([node], "trees", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": units})[0])[:, 0]


def test_rows_at_a_threshold_and_next_to_it_fall_into_the_leaf_of_xgboost(
    fitted: FittedForecast, attributes: dict[str, list[Any]]
) -> None:
    units = fitted.design.unit_values(sample_rows(500, seed=1).features).astype(np.float32)
    rows = []
    for node in np.flatnonzero(np.array(attributes["nodes_modes"]) == "BRANCH_LT")[:200]:
        threshold = np.float32(attributes["nodes_values"][node])
        for value in (threshold, np.nextafter(threshold, -np.inf), np.nextafter(threshold, np.inf)):
            row = units[node % len(units)].copy()
            row[attributes["nodes_featureids"][node]] = value
            rows.append(row)
    booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(fitted.trees))
    at_thresholds = np.array(rows, np.float32)
    expected = booster.predict(xgboost.DMatrix(at_thresholds), output_margin=True)
    assert len(rows) > 300
    assert in_onnx(attributes, at_thresholds) == pytest.approx(expected, abs=1e-5)


def test_the_graph_compares_in_single_precision_and_adds_in_double(fitted: FittedForecast) -> None:
    nodes = onnx.load_from_string(forecast_graph(fitted)).graph.node
    (trees,) = [node for node in nodes if node.domain == "ai.onnx.ml"]
    (before,) = [node for node in nodes if node.output[0] == trees.input[0]]
    (after,) = [node for node in nodes if node.input[0] == trees.output[0]]
    casts = [(node.op_type, node.attribute[0].i) for node in (before, after)]
    assert casts == [("Cast", TensorProto.FLOAT), ("Cast", TensorProto.DOUBLE)]


def test_each_tree_has_a_leaf_more_than_splits(attributes: dict[str, list[Any]]) -> None:
    modes, trees = attributes["nodes_modes"], len(set(attributes["nodes_treeids"]))
    assert modes.count("BRANCH_LT") + trees == modes.count("LEAF") == len(attributes["target_weights"])
    assert modes.count("BRANCH_LT") > trees
