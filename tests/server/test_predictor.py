from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose
from onnx import TensorProto, helper

from common.errors import BundleError
from server.core.predictor import Predictor
from tests.server.bundles import WIDTH, Logistic, rows


def test_probabilities_are_those_of_the_formula() -> None:
    model = Logistic(3)
    predictor = Predictor(model.graph().SerializeToString(), WIDTH)
    for count in (1, 2, 257):
        assert_allclose(predictor.predict(rows(count)), model.predict(rows(count)), rtol=0, atol=1e-12)


def test_read_only_bytes_are_good_enough() -> None:
    predictor = Predictor(Logistic(3).graph().SerializeToString(), WIDTH)
    matrix = np.frombuffer(rows(2).tobytes()).reshape(2, WIDTH)
    assert predictor.predict(matrix).shape == (2,)


def test_threads_share_one_predictor() -> None:
    model = Logistic(3)
    predictor = Predictor(model.graph().SerializeToString(), WIDTH)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda seed: predictor.predict(rows(5, seed)), range(50)))
    for seed, answer in enumerate(answers):
        assert_allclose(answer, model.predict(rows(5, seed)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [["rows"], ["rows", 1]])
@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_outputs_of_either_shape_and_type_become_a_float64_vector(shape: list[Any], element: int) -> None:
    reshape = helper.make_node("ReduceMax", ["features", "axis"], ["best"], keepdims=len(shape) - 1)
    cast = helper.make_node("Cast", ["best"], ["probability"], to=element)
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    predictor = Predictor(_model([reshape, cast], shape, element, [axis]), WIDTH)
    answer = predictor.predict(np.full((3, WIDTH), 0.5))
    assert answer.dtype == np.float64
    assert answer.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"input_name": "x"}, "inputs: expected only features, got x"),
        ({"width": 12}, r"expected tensor\(double\) of shape \(rows, 11\), got tensor\(double\) of \['rows', 12\]"),
        ({"input_type": TensorProto.FLOAT}, r"got tensor\(float\)"),
        ({"rows": 1}, r"got tensor\(double\) of \[1, 11\]"),
        ({"output_name": "p"}, "outputs: expected probability, got p"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(graph: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Predictor(Logistic(3).graph(**graph).SerializeToString(), WIDTH)


def test_an_output_that_is_no_probability_a_row_is_refused() -> None:
    same = helper.make_node("Identity", ["features"], ["probability"])
    with pytest.raises(BundleError, match="output probability: expected a float or double tensor of shape"):
        Predictor(_model([same], ["rows", WIDTH], TensorProto.DOUBLE, []), WIDTH)


def test_what_is_no_onnx_is_refused_in_one_line() -> None:
    with pytest.raises(BundleError, match="ONNX Runtime cannot load it") as raised:
        Predictor(b"not a model", WIDTH)
    assert "\n" not in str(raised.value)


def _model(nodes: list[Any], shape: list[Any], element: int, constants: list[Any]) -> bytes:
    taken = helper.make_tensor_value_info("features", TensorProto.DOUBLE, ["rows", WIDTH])
    given = helper.make_tensor_value_info("probability", element, shape)
    graph = helper.make_graph(nodes, "test", [taken], [given], constants)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())
