from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from common.schema import FULL_1
from training.models import KINDS
from training.models.trees import FittedTrees, parse_trees
from training.problem.rows import Rows
from training.shipping import export
from training.shipping.onnx_model import OnnxModel


@pytest.fixture(scope="module", params=["linear", "rate"])
def fitted(request: pytest.FixtureRequest, rows: Rows, y: NDArray[np.int8]) -> FittedTrees:
    kind = KINDS["xgboost"]
    made = kind.fit(rows, y, {**kind.defaults(FULL_1), "base": request.param}, 0)
    assert isinstance(made, FittedTrees)
    return made


def test_rows_at_a_threshold_fall_into_the_same_leaf_in_both_forms(fitted: FittedTrees, rows: Rows) -> None:
    # The doubles around a float32 threshold: those that round to it, and those that just do not.
    nodes = parse_trees(fitted.booster).attributes
    at = np.flatnonzero(np.array(nodes["nodes_modes"]) == "BRANCH_LT")[:200]
    made = []
    for node in at:
        threshold = np.float32(nodes["nodes_values"][node])
        column = fitted.terms.index[nodes["nodes_featureids"][node]]
        below, above = np.nextafter(threshold, np.float32(-np.inf)), np.nextafter(threshold, np.float32(np.inf))
        half_down, half_up = (float(below) + float(threshold)) / 2, (float(above) + float(threshold)) / 2
        for value in (
            threshold,
            below,
            above,
            half_down,
            half_up,
            np.nextafter(half_down, 0),
            np.nextafter(half_up, 1),
        ):
            row = rows.features[node % len(rows)].copy()
            row[column] = value
            made.append(row)
    features = np.array(made)
    exported = OnnxModel(fitted.to_onnx()).probabilities(features)
    assert export.check_parity(exported, fitted.probabilities(features)) <= 1e-6


def test_scaled_float64_inputs_would_not(fitted: FittedTrees) -> None:
    """Why the graph casts: the same thresholds met by doubles send rows to other leaves."""
    nodes = onnx.load_from_string(fitted.to_onnx()).graph.node
    (trees,) = [node for node in nodes if node.domain == "ai.onnx.ml"]
    (before,) = [node for node in nodes if node.output[0] == trees.input[0]]
    (after,) = [node for node in nodes if node.input[0] == trees.output[0]]
    casts = [(node.op_type, node.attribute[0].i) for node in (before, after)]
    assert casts == [("Cast", onnx.TensorProto.FLOAT), ("Cast", onnx.TensorProto.DOUBLE)]


def test_every_leaf_and_split_of_the_booster_is_in_the_graph(fitted: FittedTrees) -> None:
    trees = parse_trees(fitted.booster).attributes
    leaves = trees["nodes_modes"].count("LEAF")
    splits = trees["nodes_modes"].count("BRANCH_LT")
    assert splits + int(fitted.params["trees"]) == leaves  # a binary tree has one leaf more than splits
    assert len(trees["target_weights"]) == leaves
    (node,) = [one for one in onnx.load_from_string(fitted.to_onnx()).graph.node if one.domain == "ai.onnx.ml"]
    weights = next(one for one in node.attribute if one.name == "target_weights")
    assert list(weights.floats) == pytest.approx(trees["target_weights"])


def test_a_fall_and_a_rise_look_the_same(fitted: FittedTrees, rows: Rows) -> None:
    signed = [FULL_1.names.index(name) for name in fitted.columns if name.startswith("return_")]
    mirrored = rows.features.copy()
    mirrored[:, signed] *= -1
    assert np.array_equal(fitted.probabilities(mirrored), fitted.probabilities(rows.features))


def test_more_volatility_than_was_ever_seen_still_counts_where_it_starts_from_a_linear_model(
    rows: Rows, y: NDArray[np.int8]
) -> None:
    kind = KINDS["xgboost"]
    fitted = kind.fit(rows, y, {**kind.defaults(FULL_1), "base": "linear"}, 0)
    wild = np.median(rows.features, axis=0, keepdims=True).repeat(2, axis=0)
    sizes = [column for column, feature in enumerate(FULL_1.features) if feature.unit == "log"]
    wild[:, sizes] = rows.features[:, sizes].max() * np.array([[10.0], [1000.0]])
    calm, wilder = fitted.logits(wild)
    assert wilder > calm + 0.1


def test_constants_of_the_graph_are_finite(fitted: FittedTrees) -> None:
    graph = onnx.load_from_string(fitted.to_onnx()).graph
    assert all(np.isfinite(numpy_helper.to_array(one)).all() for one in graph.initializer)
