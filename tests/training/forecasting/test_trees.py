"""ONNX Runtime takes each row to the leaf that XGBoost takes it to."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime
import pytest
import xgboost
from onnx import TensorProto, helper

from tests.training.forecasting.samples import sample_rows
from training.forecasting.form import FittedForecast, tree_sums
from training.forecasting.graph import IR_VERSION, ML_OPSET, OPSET
from training.forecasting.kinds import kind_named
from training.forecasting.trees import double_split, tree_attributes
from training.problem.target import Floats


@pytest.fixture(scope="module")
def fitted() -> FittedForecast:
    return kind_named("xgboost").fit(sample_rows(2000))


@pytest.fixture(scope="module")
def attributes(fitted: FittedForecast) -> dict[str, Any]:
    return tree_attributes(fitted.trees, [0.0])


def in_onnx(attributes: dict[str, Any], units: Floats) -> Floats:
    """Sums of leaves of (n, units), (n, targets), by a graph of the trees alone."""
    node = helper.make_node("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["n", None]) for name in ("x", "y")]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    graph = helper.make_graph([node], "trees", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": units})[0])


def test_rows_at_a_threshold_and_next_to_it_fall_into_the_leaf_of_xgboost(
    fitted: FittedForecast, attributes: dict[str, Any]
) -> None:
    units = fitted.design.unit_values(sample_rows(500, seed=1).features)
    rows = []
    trees = json.loads(fitted.trees)["learner"]["gradient_booster"]["model"]["trees"]
    splits = [
        (tree["split_indices"][place], np.float32(tree["split_conditions"][place]))
        for tree in trees
        for place, first in enumerate(tree["left_children"])
        if first >= 0
    ]
    for number, (feature, split) in enumerate(splits[:200]):
        below = np.nextafter(split, np.float32(-np.inf))
        half_way = (float(split) + float(below)) / 2  # rounds to either of the two
        near = (float(below), half_way, np.nextafter(half_way, -np.inf), np.nextafter(half_way, np.inf), float(split))
        for value in (*near, np.nextafter(split, np.float32(np.inf))):
            row = units[number % len(units)].copy()
            row[feature] = value
            rows.append(row)
    at_thresholds = np.array(rows)
    assert len(rows) > 600
    expected = tree_sums(xgboost.Booster({"nthread": 1}, model_file=bytearray(fitted.trees)), at_thresholds)
    assert in_onnx(attributes, at_thresholds)[:, 0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("value", [1.5, -1.5, float(np.nextafter(np.float32(1.5), np.float32(2))), 0.0, 1e-45])
def test_a_split_in_double_decides_as_rounding_to_single_does(value: float) -> None:
    split, single = double_split(value), np.float32(value)
    for x in (np.nextafter(split, -np.inf), split, np.nextafter(split, np.inf)):
        assert (x < split) == (np.float32(x) < single)


def test_constants_are_added_to_their_targets_in_double(fitted: FittedForecast, attributes: dict[str, Any]) -> None:
    units = fitted.design.unit_values(sample_rows(20, seed=1).features)
    sums = in_onnx(tree_attributes(fitted.trees, [8.123456789, -3.0]), units)
    assert sums[:, 0] == pytest.approx(in_onnx(attributes, units)[:, 0] + 8.123456789, abs=1e-12)
    assert (sums[:, 1] == -3.0).all()


def test_a_tree_without_a_split_gives_its_value_to_all_rows(fitted: FittedForecast) -> None:
    bare = json.loads(fitted.trees)
    model = bare["learner"]["gradient_booster"]["model"]
    stump = {"left_children": [-1], "right_children": [-1], "split_conditions": [0.25], "split_indices": [0]}
    model["trees"] = [{**stump, "default_left": [0]}] * 3
    sums = in_onnx(tree_attributes(json.dumps(bare).encode(), [0.0]), np.array([[0.0, 1.0], [-5.0, np.nan]]))
    assert sums[:, 0].tolist() == [0.75, 0.75]
