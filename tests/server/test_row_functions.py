"""Functions that an ONNX file defines itself: the check of row independence follows their bodies."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from common.errors import BundleError
from server.core.row_independence import MAX_FUNCTION_DEPTH, require_independent_rows
from tests.server.test_row_independence import WIDTH, ZERO, Nodes, column, model, node, refusal


def function(nodes: Nodes) -> onnx.FunctionProto:
    return helper.make_function("mine", "F", ["x"], ["y"], nodes, [helper.make_opsetid("", 18)], ["axis"])


def softmax_of_attribute() -> onnx.NodeProto:
    inner = node("Softmax", ["x"], ["y"])
    inner.attribute.add(name="axis", ref_attr_name="axis", type=onnx.AttributeProto.INT)
    return inner


@pytest.mark.parametrize(("axis", "accepted"), [(1, True), (0, False)])
def test_a_function_of_the_file_is_judged_by_its_body_and_the_attributes_of_the_call(axis: int, accepted: bool) -> None:
    call = node("F", ["features"], ["p"], domain="mine", axis=axis)
    graph = model([call, column("p")], ZERO, functions=[function([softmax_of_attribute()])])
    reason = refusal(graph)
    assert (reason == "") == accepted
    assert accepted or "(Softmax): it normalizes over the rows" in reason


def test_a_function_that_replaces_an_operator_is_refused() -> None:
    replaced = helper.make_function(
        "", "Relu", ["x"], ["y"], [node("ReduceMean", ["x"], ["y"])], [helper.make_opsetid("", 18)]
    )
    graph = model([node("Relu", ["features"], ["p"]), column("p")], ZERO, functions=[replaced])
    with pytest.raises(BundleError, match="defines the operator 'Relu' again"):
        require_independent_rows(graph, WIDTH, 18)


def nested(depth: int) -> bytes:
    """A graph that calls a function, which calls the next, `depth` times."""
    functions = []
    for at in range(depth):
        inner = node("Relu", ["x"], ["y"]) if at == depth - 1 else node(f"F{at + 1}", ["x"], ["y"], domain="mine")
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
        functions.append(helper.make_function("mine", f"F{at}", ["x"], ["y"], [inner], opsets))
    return model([node("F0", ["features"], ["p"], domain="mine"), column("p")], ZERO, functions=functions)


def test_functions_may_call_each_other_to_a_depth() -> None:
    assert refusal(nested(MAX_FUNCTION_DEPTH)) == ""
    with pytest.raises(BundleError, match="its functions call each other too deeply"):
        require_independent_rows(nested(MAX_FUNCTION_DEPTH + 1), WIDTH, 18)


def test_a_function_that_leaves_out_its_result_is_refused() -> None:
    empty = helper.make_function("mine", "F", ["x"], ["y"], [node("Relu", ["x"], ["z"])], [helper.make_opsetid("", 18)])
    graph = model([node("F", ["features"], ["p"], domain="mine"), column("p")], ZERO, functions=[empty])
    with pytest.raises(BundleError, match=r"node 'p' \(mine\.F\): its function gives no 'y'"):
        require_independent_rows(graph, WIDTH, 18)


@pytest.mark.parametrize(("default", "accepted"), [(1, True), (0, False)])
def test_the_default_of_a_functions_attribute_counts_if_the_call_gives_none(default: int, accepted: bool) -> None:
    made = function([softmax_of_attribute()])
    made.ClearField("attribute")
    made.attribute_proto.append(helper.make_attribute("axis", default))
    graph = model([node("F", ["features"], ["p"], domain="mine"), column("p")], ZERO, functions=[made])
    reason = refusal(graph)
    assert (reason == "") == accepted
    assert accepted or "it normalizes over the rows" in reason


def test_an_attribute_that_neither_call_nor_function_gives_has_the_operators_default() -> None:
    call = node("F", ["features"], ["p"], domain="mine")
    graph = model([call, column("p")], ZERO, functions=[function([softmax_of_attribute()])])
    assert refusal(graph) == ""  # softmax along the last axis
