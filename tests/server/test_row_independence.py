"""Graphs in which a row of a batch can influence another are refused by the node; all others load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from common.errors import BundleError
from server.core.row_independence import require_independent_rows

WIDTH = 4
Nodes = list[onnx.NodeProto]
node = helper.make_node


def model(
    nodes: Nodes, constants: Mapping[str, Any] | None = None, *, opset: int = 18, functions: list[Any] | None = None
) -> bytes:
    """A graph from features (rows, 4) to probability."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    features = helper.make_tensor_value_info("features", TensorProto.DOUBLE, ["rows", WIDTH])
    probability = onnx.ValueInfoProto(name="probability")  # ONNX Runtime infers its type
    graph = helper.make_graph(nodes, "g", [features], [probability], tensors)
    domains = {made.domain for made in (*nodes, *(functions or []))} - {""}
    versions = {"ai.onnx.ml": 3, "com.microsoft": 1, "mine": 1}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, versions[name]) for name in sorted(domains))]
    return helper.make_model(graph, opset_imports=opsets, functions=functions or [], ir_version=9).SerializeToString()


def column(source: str, axis: int = 1) -> onnx.NodeProto:
    """probability: the first value of each row."""
    return node("Gather", [source, "zero"], ["probability"], axis=axis)


def refusal(graph: bytes, opset: int = 18) -> str:
    """Why a graph is refused; empty if it is accepted."""
    try:
        require_independent_rows(graph, WIDTH, opset)
    except BundleError as error:
        return str(error)
    return ""


ZERO = {"zero": np.int64(0)}
FREE: dict[str, tuple[Nodes, dict[str, Any]]] = {
    "softmax": ([node("Softmax", ["features"], ["p"], axis=-1), column("p")], ZERO),
    "mean of each row": ([node("ReduceMean", ["features", "axes"], ["probability"], keepdims=0)], {"axes": [-1]}),
    "layer norm": (
        [node("LayerNormalization", ["features", "scale", "bias"], ["n"], axis=-1), column("n")],
        {**ZERO, "scale": np.ones(WIDTH), "bias": np.zeros(WIDTH)},
    ),
    "batch norm": (
        [node("BatchNormalization", ["features", "one", "nil", "nil", "one"], ["n"]), column("n")],
        {**ZERO, "one": np.ones(WIDTH), "nil": np.zeros(WIDTH)},
    ),
    "dropout in inference": ([node("Dropout", ["features"], ["d"]), column("d")], ZERO),
    "perceptron": (
        [
            node("Gemm", ["features", "w", "b"], ["h"], transB=1),
            node("Relu", ["h"], ["r"]),
            node("MatMul", ["r", "v"], ["z"]),
            node("Sigmoid", ["z"], ["s"]),
            node("Reshape", ["s", "flat"], ["probability"]),
        ],
        {"w": np.ones((3, WIDTH)), "b": np.zeros(3), "v": np.ones((3, 1)), "flat": [-1]},
    ),
    "view of torch": (
        [
            node("Shape", ["features"], ["shape"]),
            node("Gather", ["shape", "zero"], ["count"], axis=0),
            node("Unsqueeze", ["count", "axis"], ["count1"]),
            node("Concat", ["count1", "two", "minus"], ["new"], axis=0),
            node("Reshape", ["features", "new"], ["three"]),
            node("Reshape", ["three", "keep"], ["flat"]),
            column("flat"),
        ],
        {**ZERO, "axis": [0], "two": [2], "minus": [-1], "keep": [0, -1]},
    ),
    "columns chosen and joined": (
        [
            node("Gather", ["features", "some"], ["a"], axis=1),
            node("Slice", ["features", "start", "end", "axis"], ["b"]),
            node("Concat", ["a", "b"], ["c"], axis=1),
            column("c"),
        ],
        {**ZERO, "some": [2, 0], "start": [1], "end": [3], "axis": [1]},
    ),
    "turned twice": (
        [node("Transpose", ["features"], ["t"]), node("Gather", ["t", "zero"], ["probability"], axis=0)],
        ZERO,
    ),
    "split by columns": ([node("Split", ["features"], ["a", "b"], axis=1, num_outputs=2), column("b")], ZERO),
    "normalizer": ([node("Normalizer", ["features"], ["n"], domain="ai.onnx.ml", norm="L1"), column("n")], ZERO),
    "unused mean of the batch": (
        [node("ReduceMean", ["features"], ["unused"], keepdims=0), column("features")],
        ZERO,
    ),
    "squeezed": (
        [node("Slice", ["features", "start", "end", "axis"], ["b"]), node("Squeeze", ["b", "axis"], ["probability"])],
        {"start": [1], "end": [2], "axis": [1]},
    ),
    "constant of the batch's size": (
        [
            node("Shape", ["features"], ["count"], start=0, end=1),
            node("ConstantOfShape", ["count"], ["probability"]),
        ],
        {},
    ),
    "cumulative over columns": (
        [node("CumSum", ["features", "axis"], ["c"]), column("c")],
        {**ZERO, "axis": np.int64(1)},
    ),
    "best column": ([node("TopK", ["features", "k"], ["v", "i"], axis=1), column("v")], {**ZERO, "k": [1]}),
    "einsum": (
        [node("Einsum", ["features", "w"], ["z"], equation="ij,jk->ik"), column("z")],
        {**ZERO, "w": np.ones((4, 2))},
    ),
    "convolution": (
        [
            node("Unsqueeze", ["features", "axis"], ["x"]),
            node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
            node("Conv", ["f", "w"], ["y"], kernel_shape=[2]),
            node("ReduceMax", ["y", "axes"], ["probability"], keepdims=0),
        ],
        {"axis": [1], "w": np.ones((1, 1, 2), np.float32), "axes": [1, 2]},
    ),
}
MIXED: dict[str, tuple[Nodes, dict[str, Any], str]] = {
    "minus the mean of the batch": (
        [
            node("ReduceMean", ["features", "axes"], ["mean"], keepdims=1),
            node("Sub", ["features", "mean"], ["c"]),
            column("c"),
        ],
        {**ZERO, "axes": [0]},
        "ReduceMean): it reduces over the rows (axis 0)",
    ),
    "mean over everything": (
        [node("ReduceMean", ["features"], ["mean"]), node("Sub", ["features", "mean"], ["c"]), column("c")],
        ZERO,
        "ReduceMean): it reduces over the rows",
    ),
    "softmax over rows": (
        [node("Softmax", ["features"], ["p"], axis=0), column("p")],
        ZERO,
        "normalizes over the rows",
    ),
    "sum by product": (
        [node("MatMul", ["ones", "features"], ["s"]), node("Sub", ["features", "s"], ["c"]), column("c")],
        {**ZERO, "ones": np.ones((1, 1))},
        "MatMul): it sums over the rows",
    ),
    "product with itself": (
        [
            node("Transpose", ["features"], ["t"]),
            node("MatMul", ["features", "t"], ["g"]),
            column("g"),
        ],
        ZERO,
        "combines each row with every row",
    ),
    "gemm over rows": (
        [node("Gemm", ["features", "features"], ["g"], transA=1), column("g")],
        ZERO,
        "Gemm): it sums over the rows",
    ),
    "outer difference": (
        [
            node("Gather", ["features", "zero"], ["flat"], axis=1),
            node("Unsqueeze", ["flat", "last"], ["tall"]),
            node("Sub", ["flat", "tall"], ["d"]),
            column("d"),
        ],
        {**ZERO, "last": [1]},
        "Sub): it combines each row with every row",
    ),
    "first row": (
        [node("Gather", ["features", "first"], ["f"], axis=0), node("Sub", ["features", "f"], ["c"]), column("c")],
        {**ZERO, "first": [0]},
        "Gather): it picks rows by their place",
    ),
    "last row by slice": (
        [
            node("Slice", ["features", "start", "end", "axis"], ["f"]),
            node("Sub", ["features", "f"], ["c"]),
            column("c"),
        ],
        {**ZERO, "start": [-1], "end": [2**62], "axis": [0]},
        "Slice): it works along the rows",
    ),
    "reversed rows": (
        [node("Slice", ["features", "start", "end", "axis", "step"], ["f"]), column("f")],
        {**ZERO, "start": [-1], "end": [-(2**62)], "axis": [0], "step": [-1]},
        "Slice): it works along the rows",
    ),
    "regrouped": (
        [node("Reshape", ["features", "shape"], ["r"]), column("r")],
        {**ZERO, "shape": [-1, 2]},
        "Reshape): it regroups the rows: [rows, 4] becomes [-1, 2]",
    ),
    "fixed batch": (
        [node("Reshape", ["features", "shape"], ["r"]), column("r")],
        {**ZERO, "shape": [1, 4]},
        "Reshape): it fixes the number of rows: the new shape is [1, 4]",
    ),
    "turned by reshape": (
        [
            node("Transpose", ["features"], ["t"]),
            node("Reshape", ["t", "shape"], ["r"]),
            column("r"),
        ],
        {**ZERO, "shape": [-1, 4]},
        "Reshape): it moves values between rows",
    ),
    "cumulative": (
        [node("CumSum", ["features", "axis"], ["c"]), column("c")],
        {**ZERO, "axis": np.int64(0)},
        "CumSum): it works along the rows",
    ),
    "best row": (
        [node("TopK", ["features", "k"], ["v", "i"], axis=0), node("Sub", ["features", "v"], ["c"]), column("c")],
        {**ZERO, "k": [1]},
        "TopK): it works along the rows",
    ),
    "row of the maximum": (
        [
            node("ArgMax", ["features"], ["i"]),
            node("Cast", ["i"], ["f"], to=TensorProto.DOUBLE),
            node("Sub", ["features", "f"], ["c"]),
            column("c"),
        ],
        ZERO,
        "ArgMax): it works along the rows",
    ),
    "size of the batch": (
        [
            node("Shape", ["features"], ["count"], start=0, end=1),
            node("Cast", ["count"], ["n"], to=TensorProto.DOUBLE),
            node("Div", ["features", "n"], ["c"]),
            column("c"),
        ],
        ZERO,
        "Div): the number of rows enters the calculation",
    ),
    "sum over as many columns as rows": (
        [
            node("Shape", ["features"], ["count"], start=0, end=1),
            node("Concat", ["count", "count"], ["square"], axis=0),
            node("Gather", ["features", "first"], ["tall"], axis=1),
            node("Expand", ["tall", "square"], ["wide"]),
            node("ReduceSum", ["wide", "last"], ["probability"], keepdims=0),
        ],
        {"first": [0], "last": [1]},
        "Expand): it combines each row with every row",
    ),
    "place of the maximum in the whole tensor": (
        [
            node("Unsqueeze", ["features", "axis"], ["x"]),
            node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
            node("MaxPool", ["f"], ["m", "places"], kernel_shape=[4]),
            node("Cast", ["places"], ["p"], to=TensorProto.FLOAT),
            node("Reshape", ["p", "flat"], ["probability"]),
        ],
        {"axis": [1], "flat": [-1]},
        "Cast): its input 'places' is not in the graph",
    ),
    "columns up to the number of rows": (
        [
            node("Shape", ["features"], ["count"], start=0, end=1),
            node("Slice", ["features", "start", "count", "axis"], ["s"]),
            node("ReduceSum", ["s", "axis"], ["probability"], keepdims=0),
        ],
        {"start": [0], "axis": [1]},
        "Slice): the input `ends` depends on the number of rows",
    ),
    "normalized over rows": (
        [
            node("Gather", ["features", "zero"], ["flat"], axis=1),
            node("Normalizer", ["flat"], ["n"], domain="ai.onnx.ml", norm="L2"),
            node("Reshape", ["n", "shape"], ["probability"]),
        ],
        {**ZERO, "shape": [-1]},
        "Normalizer): it takes its one dimension for the features of one row",
    ),
    "layer norm of everything": (
        [node("LayerNormalization", ["features", "scale"], ["n"], axis=0), column("n")],
        {**ZERO, "scale": np.ones((1, WIDTH))},
        "LayerNormalization): it normalizes over the rows",
    ),
    "batch norm in training": (
        [
            node("BatchNormalization", ["features", "one", "nil", "nil", "one"], ["n", "m", "v"], training_mode=1),
            column("n"),
        ],
        {**ZERO, "one": np.ones(WIDTH), "nil": np.zeros(WIDTH)},
        "BatchNormalization): training_mode is on",
    ),
    "dropout in training": (
        [node("Dropout", ["features", "ratio", "on"], ["d"]), column("d")],
        {**ZERO, "ratio": 0.5, "on": True},
        "Dropout): training_mode is on",
    ),
    "random numbers": (
        [node("RandomNormalLike", ["features"], ["n"]), column("n")],
        ZERO,
        "RandomNormalLike): this operator is not known to keep the rows apart",
    ),
    "quantized by the range of the batch": (
        [
            node("Cast", ["features"], ["f"], to=TensorProto.FLOAT),
            node("DynamicQuantizeLinear", ["f"], ["q", "s", "z"]),
            node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            column("d"),
        ],
        ZERO,
        "DynamicQuantizeLinear): this operator is not known",
    ),
    "squeezed without axes": (
        [node("Squeeze", ["features"], ["s"]), column("s", axis=-1)],
        ZERO,
        "Squeeze): without axes it drops the batch axis of a single row",
    ),
    "joined along rows": (
        [node("Concat", ["features", "row"], ["c"], axis=0), column("c")],
        {**ZERO, "row": np.ones((1, WIDTH))},
        "Concat): it joins along the rows",
    ),
    "einsum over rows": (
        [node("Einsum", ["features", "features"], ["z"], equation="ij,ik->jk"), column("z")],
        ZERO,
        "combines rows",
    ),
    "one class out of rows": (
        [node("Hardmax", ["features"], ["h"], axis=0), column("h")],
        ZERO,
        "Hardmax): it normalizes over the rows",
    ),
    "batch as channels": (
        [
            node("Unsqueeze", ["features", "axis"], ["x"]),
            node("Conv", ["x", "w"], ["y"], kernel_shape=[1]),
            node("Squeeze", ["y", "axis"], ["z"]),
            column("z"),
        ],
        {**ZERO, "axis": [0], "w": np.ones((1, 1, 1))},
        "Conv): the rows are axis 1, expected axis 0",
    ),
    "sequence of rows": (
        [
            node("Unsqueeze", ["features", "axis"], ["x"]),
            node("LSTM", ["x", "w", "r"], ["y"], hidden_size=1),
            node("Reshape", ["y", "flat"], ["probability"]),
        ],
        {"axis": [1], "w": np.ones((1, 4, 4)), "r": np.ones((1, 4, 1)), "flat": [-1]},
        "LSTM): the rows are axis 0 of X, expected axis 1",
    ),
    "no row at all": (
        [node("Identity", ["half"], ["probability"])],
        {"half": np.array([0.5])},
        "expected a value for each row",
    ),
}


@pytest.mark.parametrize("name", FREE)
def test_a_graph_that_keeps_its_rows_apart_is_accepted(name: str) -> None:
    nodes, constants = FREE[name]
    graph = model(nodes, constants)
    require_independent_rows(graph, WIDTH, 18)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(0).uniform(0.1, 1, (7, WIDTH))
    (together,) = session.run(["probability"], {"features": rows})
    alone = [session.run(["probability"], {"features": rows[at : at + 1]})[0].ravel() for at in range(7)]
    np.testing.assert_allclose(together.ravel(), np.concatenate(alone))


@pytest.mark.parametrize("name", MIXED)
def test_a_graph_that_can_mix_rows_is_refused_by_the_node(name: str) -> None:
    nodes, constants, reason = MIXED[name]
    with pytest.raises(BundleError) as raised:
        require_independent_rows(model(nodes, constants), WIDTH, 18)
    assert reason in str(raised.value)


@pytest.mark.parametrize(("axis", "accepted"), [(1, True), (0, False)])
def test_softmax_before_opset_13_works_on_all_axes_from_its_own(axis: int, accepted: bool) -> None:
    graph = model([node("Softmax", ["features"], ["p"], axis=axis), column("p")], ZERO, opset=11)
    if accepted:
        require_independent_rows(graph, WIDTH, 11)
    else:
        with pytest.raises(BundleError, match="normalizes over the rows"):
            require_independent_rows(graph, WIDTH, 11)


def branch(name: str) -> onnx.GraphProto:
    output = helper.make_tensor_value_info(name, TensorProto.DOUBLE, None)
    return helper.make_graph([node("ReduceMean", ["features"], [name], keepdims=0)], name, [], [output])


def test_branches_and_loops_over_rows_are_refused() -> None:
    nodes = [node("If", ["yes"], ["m"], then_branch=branch("a"), else_branch=branch("b")), column("m")]
    with pytest.raises(BundleError, match=r"\(If\): this operator is not known to keep the rows apart"):
        require_independent_rows(model(nodes, {**ZERO, "yes": True}), WIDTH, 18)


def test_the_oldest_opset_that_is_read_is_accepted() -> None:
    assert refusal(model([column("features")], ZERO, opset=7), 7) == ""


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Relu", ["features"], ["other"])], "outputs: expected probability"),
        ([node("Relu", ["missing"], ["probability"])], "its input 'missing' is not in the graph"),
        ([node("Clip", ["features", "", ""], ["p"], name="cut"), node("Expand", ["p", "p"], ["probability"])],
         "node 'probability' (Expand)"),
        ([node("Softmax", ["features"], ["probability"], axis=0, name="mixes")], "node 'mixes' (Softmax)"),
        ([node("LSTM", ["features"], ["", "probability"])], "node 'probability' (LSTM)"),
        ([node("Shape", ["features"], ["probability"])], "got a value that depends on no single row"),
        ([node("Transpose", ["features"], ["probability"])], "got a value that depends on no single row"),
        ([node("Transpose", ["features"], ["probability"], perm=[0, 5])], "its attributes do not fit its inputs"),
        ([node("Scan", ["features"], ["probability"], name="n" * 100)], f"node '{'n' * 64}' (Scan)"),
    ],
)  # fmt: skip
def test_refusals_name_the_node_and_the_reason(nodes: Nodes, reason: str) -> None:
    with pytest.raises(BundleError) as raised:
        require_independent_rows(model(nodes), WIDTH, 18)
    assert reason in str(raised.value)


def test_nodes_that_the_probability_does_not_depend_on_are_skipped() -> None:
    assert refusal(model([node("Softmax", ["features"], ["p"], axis=0), column("features")], ZERO)) == ""


def test_an_old_opset_is_refused() -> None:
    with pytest.raises(BundleError, match="opset: expected at least 7, got 6"):
        require_independent_rows(model([column("features")], ZERO, opset=6), WIDTH, 6)


@pytest.mark.parametrize("name", FREE)
def test_packed_and_unpacked_integers_are_read_alike(name: str) -> None:
    """Shapes and axes as typed fields in place of raw bytes."""
    nodes, constants = FREE[name]
    parsed = onnx.ModelProto.FromString(model(nodes, constants))
    for tensor in parsed.graph.initializer:
        if tensor.data_type == TensorProto.INT64:
            values = numpy_helper.to_array(tensor).ravel()
            tensor.ClearField("raw_data")
            tensor.int64_data.extend(int(value) for value in values)
    assert refusal(parsed.SerializeToString()) == ""
