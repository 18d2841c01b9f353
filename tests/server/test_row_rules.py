"""Each rule of the check of row independence by itself: known shapes in, the shape of the result or a reason out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from server.core.onnx_graph import Node, read_graph
from server.core.row_rules import RULES
from server.core.row_shape_rules import WHOLE_AXIS
from server.core.row_values import ROWS, Call, Dim, RowsMixError, Value, shape_value

UNRANKED = Value(None)
SIZED = Value((3,), None, True)  # depends on the number of rows
ML = "ai.onnx.ml"


def rows(*rest: Dim) -> Value:
    return Value((ROWS, *rest))


def const(*dims: Dim) -> Value:
    return Value(dims)


def ints(*values: Dim) -> Value:
    return shape_value(values)


def node(operator: str, *, domain: str = "", outputs: int = 1, **attributes: Any) -> Node:
    made = helper.make_node(operator, [], [f"y{at}" for at in range(outputs)], domain=domain, **attributes)
    graph = helper.make_graph([made], "g", [], [])
    return read_graph(helper.make_model(graph).SerializeToString()).nodes[0]


def apply(operator: str, inputs: list[Value | None], opset: int = 18, **options: Any) -> list[Value]:
    made = node(operator, **options)
    return list(RULES[made.domain, made.operator](Call(made, inputs, opset)))


def case(operator: str, inputs: list[Value | None], expected: Any, opset: int = 18, **options: Any) -> Any:
    name = f"{operator}-{'-'.join(f'{key}={value}' for key, value in options.items() if key != 'value')}"
    return pytest.param(operator, inputs, expected, opset, options, id=name)


ACCEPTED = [
    # Shapes.
    case("Shape", [rows(4, 5)], [ints(ROWS, 4, 5)]),
    case("Shape", [rows(4, 5)], [ints(4)], start=1, end=2),
    case("Shape", [rows(4, 5)], [ints(5)], start=-1),
    case("Shape", [UNRANKED], [UNRANKED]),
    case("Size", [rows(4)], [Value((), None, True)]),
    case("Size", [const(4)], [Value(())]),
    case("Size", [SIZED], [Value((), None, True)]),
    case("Reshape", [rows(4), ints(0, 2, 2)], [rows(2, 2)]),
    case("Reshape", [rows(4), ints(-1, 2, 2)], [rows(2, 2)]),
    case("Reshape", [rows(4), ints(1, -1, 4)], [Value((1, ROWS, 4))]),
    case("Reshape", [rows(4), ints(ROWS, -1)], [rows(4)]),
    case("Reshape", [rows(4), ints(ROWS, 2, -1)], [rows(2, 2)]),
    case("Reshape", [rows(4), None], [rows(4)], shape=[-1, 4]),
    case("Reshape", [const(4), UNRANKED], [UNRANKED]),
    case("Reshape", [const(4), ints(2, -1)], [Value((2, None))]),
    case("Reshape", [const(4), ints(0, 1)], [Value((None, 1))]),
    case("Reshape", [Value((1,), (7,), True), ints(-1)], [Value((None,), (7,), True)]),
    case("Flatten", [rows(4, 5)], [rows(20)]),
    case("Flatten", [rows(4, 5)], [rows(20)], axis=-2),
    case("Flatten", [const(4, 5)], [Value((None, None))]),
    case("Flatten", [SIZED], [Value((None, None), None, True)]),
    case("Transpose", [rows(4, 5)], [Value((5, 4, ROWS))]),
    case("Transpose", [rows(4, 5)], [Value((4, ROWS, 5))], perm=[1, 0, 2]),
    case("Transpose", [UNRANKED], [UNRANKED]),
    case("Squeeze", [rows(1, 5), ints(1)], [rows(5)]),
    case("Squeeze", [rows(5, 1), ints(-1)], [rows(5)]),
    case("Squeeze", [rows(1, 5)], [rows(5)], opset=11, axes=[1]),
    case("Squeeze", [const(1, 5, 1)], [const(5)]),
    case("Squeeze", [Value((1,), (7,))], [Value((), (7,))]),
    case("Squeeze", [UNRANKED], [UNRANKED]),
    case("Unsqueeze", [rows(5), ints(0)], [Value((1, ROWS, 5))]),
    case("Unsqueeze", [rows(5), ints(-1)], [rows(5, 1)]),
    case("Unsqueeze", [rows(5), ints(1, 3)], [rows(1, 5, 1)]),
    case("Unsqueeze", [Value((), (7,)), ints(0)], [Value((1,), (7,))]),
    case("Unsqueeze", [Value(None, None, True), ints(0)], [Value(None, None, True)]),
    case("Concat", [rows(4), rows(5)], [rows(9)], axis=1),
    case("Concat", [rows(4), rows(None)], [rows(None)], axis=-1),
    case("Concat", [rows(2, 4), rows(2, 5)], [rows(2, 9)], axis=2),
    case("Concat", [ints(ROWS), ints(4, 5)], [ints(ROWS, 4, 5)], axis=0),
    case("Concat", [const(4), const(5)], [const(9)], axis=0),
    case("Concat", [const(4), UNRANKED], [UNRANKED], axis=0),
    case("Split", [rows(6)], [rows(2)] * 3, axis=1, outputs=3),
    case("Split", [rows(6)], [rows(3)] * 2, axis=-1, outputs=2),
    case("Split", [rows(7)], [rows(None)] * 2, axis=1, outputs=2),
    case("Split", [rows(None)], [rows(None)] * 2, axis=1, outputs=2),
    case("Split", [rows(6), ints(2, 4)], [rows(2), rows(4)], axis=1, outputs=2),
    case("Split", [rows(6)], [rows(1), rows(5)], opset=11, axis=1, split=[1, 5], outputs=2),
    case("Split", [const(6)], [const(3)] * 2, outputs=2),
    case("Slice", [rows(6), ints(1), ints(4), ints(1)], [rows(3)]),
    case("Slice", [rows(6), ints(0), ints(6), ints(1), ints(2)], [rows(3)]),
    case("Slice", [rows(6), ints(-1), ints(-7), ints(1), ints(-1)], [rows(6)]),
    case("Slice", [rows(None), ints(1), ints(4), ints(1)], [rows(None)]),
    case("Slice", [rows(6), ints(0), ints(WHOLE_AXIS), ints(0)], [rows(6)]),
    case("Slice", [rows(6), ints(0, 2), ints(2**62, 5)], [rows(3)]),
    case("Slice", [rows(6, 7)], [rows(2, 7)], opset=9, starts=[1], ends=[3], axes=[1]),
    case("Slice", [ints(ROWS, 4, 5), ints(1), ints(3)], [ints(4, 5)]),
    case("Slice", [ints(ROWS, 4, 5, 6), ints(0), ints(4), ints(0), ints(2)], [ints(ROWS, 5)]),
    case("Gather", [rows(6), ints(0, 2)], [rows(2)], axis=1),
    case("Gather", [rows(6, 7), Value((), (1,))], [rows(6)], axis=2),
    case("Gather", [const(6, 7), rows(2)], [rows(2, 7)]),
    case("Gather", [const(6, 7), const(3, 2)], [const(6, 3, 2)], axis=-1),
    case("Gather", [const(6, 7), UNRANKED], [UNRANKED]),
    case("Gather", [UNRANKED, SIZED], [Value(None, None, True)]),
    case("Gather", [ints(ROWS, 4, 5), ints(0, -1)], [ints(ROWS, 5)]),
    case("Gather", [ints(ROWS, 4, 5), Value((), (1,))], [Value((), (4,))]),
    case("Gather", [ints(3, 4), ints(-2)], [ints(3)]),
    case("Gather", [ints(3, 4), ints(2)], [Value((1,))]),
    case("GatherElements", [rows(6), rows(2)], [rows(2)], axis=1),
    case("Expand", [rows(1), ints(1, 5)], [rows(5)]),
    case("Expand", [const(1), UNRANKED], [UNRANKED]),
    case("ConstantOfShape", [ints(ROWS, 4)], [rows(4)]),
    case("ConstantOfShape", [const(2)], [UNRANKED]),
    case("Tile", [rows(4), ints(1, 3)], [rows(12)]),
    case("Tile", [rows(None), ints(1, 3)], [rows(None)]),
    case("Tile", [const(4, 2), ints(2, 3)], [const(8, 6)]),
    case("Pad", [rows(4), ints(0, 1, 0, 2)], [rows(None)]),
    case("Pad", [rows(4), ints(1, 2), None, ints(1)], [rows(None)]),
    case("Pad", [rows(4), ints(1, 2), None, ints(-1)], [rows(None)]),
    case("Pad", [rows(4)], [rows(None)], opset=10, pads=[0, 1, 0, 0]),
    case("Pad", [const(4), ints(1, 1)], [const(None)]),
    case("OneHot", [rows(), const(), const(2)], [rows(None)]),
    case("OneHot", [rows(3), const(), const(2)], [rows(None, 3)], axis=1),
    case("OneHot", [rows(3), const(), const(2)], [Value((None, ROWS, 3))], axis=0),
    case("OneHot", [rows(3), const(), const(2)], [rows(None, 3)], axis=-2),
    case("Constant", [], [Value((2,), (5, 6))], value=numpy_helper.from_array(np.array([5, 6]))),
    case("Constant", [], [Value((), (9,))], value_int=9),
    case("Constant", [], [ints(8, 9)], value_ints=[8, 9]),
    case("Constant", [], [Value(())], value_float=1.5),
    case("Constant", [], [Value(())], value_string="x"),
    case("Constant", [], [Value((3,))], value_floats=[1.0, 2.0, 3.0]),
    case("Constant", [], [Value((2,))], value_strings=["a", "b"]),
    case("Constant", [], [UNRANKED]),
    # Elementwise.
    case("Relu", [rows(4)], [rows(4)]),
    case("Relu", [SIZED], [SIZED]),
    case("Cast", [ints(ROWS, 4)], [ints(ROWS, 4)], to=TensorProto.INT32),
    case("CastLike", [rows(4), rows(1)], [rows(4)]),
    case("Add", [rows(4), const(4)], [rows(4)]),
    case("Add", [rows(1), const(1, 4)], [rows(4)]),
    case("Add", [Value((), (3,)), Value((), (4,))], [Value((), (7,))]),
    case("Sub", [ints(3), ints(4)], [ints(-1)]),
    case("Mul", [ints(3), ints(4)], [ints(12)]),
    case("Div", [ints(-7), ints(2)], [ints(-3)]),
    case("Div", [ints(7), ints(0)], [Value((1,))]),
    case("Add", [ints(ROWS), ints(4)], [Value((1,), None, True)]),
    case("Add", [ints(1, 2), ints(3, 4)], [Value((2,))]),
    case("Pow", [ints(3), ints(4)], [Value((1,))]),
    case("Where", [rows(4), const(), rows(1)], [rows(4)]),
    case("Dropout", [rows(4), const(), Value((), (0,))], [rows(4), rows(4)]),
    case("Dropout", [rows(4)], [rows(4), rows(4)]),
    # Along an axis.
    case("Softmax", [rows(4)], [rows(4)]),
    case("Softmax", [rows(4, 5)], [rows(4, 5)], opset=12),
    case("Softmax", [Value((4, ROWS))], [Value((4, ROWS))], axis=0),
    case("Softmax", [const(4)], [const(4)], axis=0),
    case("LayerNormalization", [rows(4, 5), const(5)], [rows(4, 5), rows(4, 1), rows(4, 1)]),
    case("LayerNormalization", [rows(4, 5), const(4, 5)], [rows(4, 5), rows(1, 1), rows(1, 1)], axis=1),
    case("LpNormalization", [rows(4)], [rows(4)]),
    case("MeanVarianceNormalization", [Value((2, ROWS, 3, 4))], [Value((2, ROWS, 3, 4))]),
    case("MeanVarianceNormalization", [rows(4)], [rows(4)], axes=[1]),
    case("BatchNormalization", [rows(4, 5), *[const(4)] * 4], [rows(4, 5)]),
    case("BatchNormalization", [rows(4, 5), *[const(4)] * 4], [rows(4, 5)], opset=13),
    case("Conv", [rows(3, 8), const(6, 3, 2)], [rows(None, None)]),
    case("Conv", [const(2, 3, 8), const(6, 3, 2)], [const(2, None, None)]),
    case("LRN", [rows(3, 8)], [rows(3, 8)], size=3),
    case("ReduceMean", [rows(4, 5), ints(1)], [rows(1, 5)]),
    case("ReduceMean", [rows(4, 5), ints(-1)], [rows(4)], keepdims=0),
    case("ReduceMean", [rows(4, 5)], [rows(5)], opset=13, axes=[1], keepdims=0),
    case("ReduceMean", [rows(4)], [rows(4)], noop_with_empty_axes=1),
    case("ReduceMean", [const(4, 5)], [const(1, 1)]),
    case("ReduceMean", [UNRANKED], [UNRANKED]),
    case("ArgMax", [rows(4, 5)], [rows(1, 5)], axis=1),
    case("ArgMax", [rows(4, 5)], [rows(4)], axis=-1, keepdims=0),
    case("ArgMax", [const(4, 5)], [const(1, 5)]),
    case("TopK", [rows(4), ints(2)], [rows(2), rows(2)]),
    case("TopK", [rows(4, 5), ints(2)], [rows(2, 5), rows(2, 5)], axis=1),
    case("TopK", [rows(4), const(1)], [rows(None), rows(None)]),
    case("CumSum", [rows(4), Value((), (1,))], [rows(4)]),
    # Products.
    case("Gemm", [rows(4), const(4, 3)], [rows(3)]),
    case("Gemm", [rows(4), const(3, 4), const(3)], [rows(3)], transB=1),
    case("Gemm", [Value((4, ROWS)), const(4, 3)], [rows(3)], transA=1),
    case("Gemm", [const(3, 4), rows(4)], [Value((3, ROWS))], transB=1),
    case("MatMul", [rows(4), const(4)], [rows()]),
    case("MatMul", [const(4), Value((4, ROWS))], [rows()]),
    case("MatMul", [rows(2, 4), const(4, 3)], [rows(2, 3)]),
    case("MatMul", [rows(2, 4), rows(4, 3)], [rows(2, 3)]),
    case("MatMul", [UNRANKED, const(4)], [UNRANKED]),
    case("Einsum", [rows(4), const(4, 2)], [rows(2)], equation="ij, jk -> ik"),
    case("Einsum", [rows(4), rows(4)], [rows()], equation="ij,ij->i"),
    case("Einsum", [rows(4)], [Value((4, ROWS))], equation="ij->ji"),
    case("QuantizeLinear", [rows(4), const(), const()], [rows(4)]),
    case("QuantizeLinear", [rows(4), const(1)], [rows(4)]),
    case("QuantizeLinear", [rows(4), const(4)], [rows(4)]),
    case("QuantizeLinear", [Value((4, ROWS)), const(4)], [Value((4, ROWS))], axis=0),
    case("Trilu", [rows(4, 5)], [rows(4, 5)]),
    # Models of scikit-learn and sequences.
    case("LSTM", [Value((3, ROWS, 4)), const(1), const(1)],
         [Value((None, None, ROWS, None)), Value((None, ROWS, None)), Value((None, ROWS, None))]),
    case("GRU", [rows(3, 4), const(1), const(1)],
         [rows(None, None, None), rows(None, None), rows(None, None)], layout=1),
    case("LinearRegressor", [rows(4)], [rows(1)], domain=ML),
    case("LinearRegressor", [rows(4)], [rows(2)], domain=ML, targets=2),
    case("TreeEnsembleRegressor", [rows(4)], [rows(3)], domain=ML, n_targets=3),
    case("SVMRegressor", [rows(4)], [rows(1)], domain=ML),
    case("LinearClassifier", [rows(4)], [rows(), rows(3)], domain=ML, classlabels_ints=[0, 1, 2]),
    case("TreeEnsembleClassifier", [rows(4)], [rows(), rows(2)], domain=ML, classlabels_int64s=[0, 1]),
    case("TreeEnsembleClassifier", [rows(4)], [rows(), rows(2)], domain=ML, classlabels_strings=["a", "b"]),
    case("LinearClassifier", [rows(4)], [rows(), rows(None)], domain=ML),
    case("SVMClassifier", [rows(4)], [rows(), rows(None)], domain=ML, classlabels_ints=[0, 1]),
    case("Scaler", [rows(4)], [rows(4)], domain=ML),
    case("Normalizer", [Value((4, ROWS, 2))], [Value((4, ROWS, 2))], domain=ML),
    case("ArrayFeatureExtractor", [rows(4), const(2)], [rows(2)], domain=ML),
    case("ArrayFeatureExtractor", [rows(4), const()], [rows(1)], domain=ML),
    case("ArrayFeatureExtractor", [const(4), const(2)], [Value((1, None))], domain=ML),
    case("FeatureVectorizer", [rows(4), rows()], [rows(None)], domain=ML),
    case("OneHotEncoder", [rows(4)], [rows(4, 3)], domain=ML, cats_int64s=[1, 2, 3]),
    case("OneHotEncoder", [rows(4)], [rows(4, 2)], domain=ML, cats_strings=["a", "b"]),
    case("OneHotEncoder", [rows(4)], [rows(4, None)], domain=ML),
    case("LabelEncoder", [rows(4)], [rows(4)], domain=ML),
    case("CDist", [rows(4), const(7, 4)], [rows(7)], domain="com.microsoft"),
    case("CDist", [rows(4), UNRANKED], [rows(None)], domain="com.microsoft"),
]  # fmt: skip

NUMBER_ENTERS = "the number of rows enters the calculation"
REFUSED = [
    case("Reshape", [rows(4), UNRANKED], "the new shape is not known"),
    case("Reshape", [const(4), SIZED], "the new shape is not known"),
    case("Reshape", [rows(4), ints(2, -1)], "it fixes the number of rows: the new shape is [2, -1]"),
    case("Reshape", [rows(4), ints(ROWS, 3)], "it regroups the rows: [rows, 4] becomes [rows, 3]"),
    case("Reshape", [rows(None), ints(-1, 4)], "it regroups the rows: [rows, ?] becomes [-1, 4]"),
    case("Reshape", [rows(4), ints(0, 4)], "it fixes the number of rows", allowzero=1),
    case("Reshape", [const(4), ints(ROWS, 4)], "a constant takes the number of rows as its shape"),
    case("Reshape", [Value((2, ROWS)), ints(-1, 2)], "it moves values between rows"),
    case("Flatten", [rows(4, 5)], "axis 2: expected 1, with the rows first", axis=2),
    case("Flatten", [rows(4, 5)], "axis 0: expected 1", axis=0),
    case("Flatten", [Value((4, ROWS))], "axis 1: expected 1, with the rows first"),
    case("Squeeze", [rows(1)], "without axes it drops the batch axis"),
    case("Squeeze", [rows(1), ints(0)], "it drops the rows (axis 0)"),
    case("Squeeze", [rows(1), ints(-2)], "it drops the rows (axis 0)"),
    case("Squeeze", [rows(1), ints(2)], "axis 2 does not exist in 2 dimensions"),
    case("Squeeze", [rows(1), ints(-3)], "axis -3 does not exist in 2 dimensions"),
    case("Concat", [rows(4), rows(5)], "it joins along the rows (axis 0)", axis=0),
    case("Concat", [rows(4), rows(4, 5)], "its inputs differ in their number of dimensions", axis=1),
    case("Concat", [rows(4), const(1, 4)], "it joins rows with a constant", axis=1),
    case("Concat", [rows(4), UNRANKED], "the shape of an input is not known", axis=1),
    case("Split", [rows(4)], "it works along the rows", outputs=2),
    case("Split", [rows(6), SIZED], "the sizes depends on the number of rows", axis=1, outputs=2),
    case("Slice", [rows(6), ints(0), ints(WHOLE_AXIS - 1), ints(0)], "it works along the rows"),
    case("Slice", [rows(6), ints(1), ints(WHOLE_AXIS), ints(0)], "it works along the rows"),
    case("Slice", [rows(6), ints(0), ints(WHOLE_AXIS), ints(0), ints(2)], "it works along the rows"),
    case("Slice", [rows(6), rows(), ints(1)], "the input `starts` depends on rows"),
    case("Gather", [rows(6), rows(2)], "it picks from rows by other rows", axis=1),
    case("Gather", [rows(6), ints(0)], "it picks rows by their place (axis 0)"),
    case("Gather", [rows(6), SIZED], NUMBER_ENTERS, axis=1),
    case("Gather", [SIZED, rows(1)], NUMBER_ENTERS),
    case("Gather", [rows(6), UNRANKED], "the shape of an input is not known", axis=1),
    case("Gather", [UNRANKED, rows(6)], "the shape of an input is not known"),
    case("GatherElements", [rows(6), rows(2)], "expected rows in both inputs", axis=0),
    case("GatherElements", [rows(6), const(1, 2)], "expected rows in both inputs", axis=1),
    case("GatherElements", [const(6, 1), const(1, 2)], "expected rows in both inputs", axis=1),
    case("Expand", [rows(1), UNRANKED], "the new shape is not known"),
    case("Expand", [const(1), SIZED], "the new shape is not known"),
    case("Expand", [rows(1), ints(7, 5)], "it takes a fixed number of rows: 7"),
    case("ConstantOfShape", [SIZED], "the new shape is not known"),
    case("Tile", [rows(4), ints(2, 1)], "it repeats the rows"),
    case("Tile", [rows(4), ints(1)], "it repeats the rows"),
    case("Pad", [rows(4), ints(1, 0, 0, 0)], "it adds rows"),
    case("Pad", [rows(4), ints(0, 0, 1, 0)], "it adds rows"),
    case("Pad", [rows(4), ints(0, 1), None, ints(0)], "it adds rows"),
    case("Pad", [rows(4), ints(1, 0), None, ints(-2)], "it adds rows"),
    case("Pad", [rows(4), ints(0, 1, 0)], "its pads do not fit its input"),
    case("OneHot", [rows(), rows(), const(2)], "input 1 depends on rows"),
    case("Relu", [None], "input 0 is missing"),
    case("Clip", [rows(4), SIZED], NUMBER_ENTERS),
    case("Add", [rows(4), UNRANKED], "the shape of an input is not known"),
    case("Add", [rows(4), const(3, 4)], "it takes a fixed number of rows: 3"),
    case("Add", [rows(4), const(None, 4)], "it takes a fixed number of rows: not known"),
    case("Add", [rows(), rows(1)], "it combines each row with every row"),
    case("Dropout", [rows(4), const(), Value((), (1,))], "training_mode is on"),
    case("Softmax", [rows(4)], "it normalizes over the rows (axis 0)", axis=-2),
    case("Softmax", [Value((4, ROWS))], "it normalizes over the rows (axis 1)"),
    case("Softmax", [Value((3, 4, ROWS))], "it normalizes over the rows (axis 1)", opset=12),
    case("Softmax", [rows(4, 5)], "it normalizes over the rows (axis 0)", opset=12, axis=0),
    case("LayerNormalization", [Value((3, 4, ROWS)), const(4)], "it normalizes over the rows (axes from 1)", axis=1),
    case("LayerNormalization", [rows(4), rows(1)], "input 1 depends on rows"),
    case("LpNormalization", [Value((4, ROWS))], "it works along the rows (axis 1)"),
    case("LpNormalization", [rows(4)], "it works along the rows (axis 0)", axis=0),
    case("MeanVarianceNormalization", [rows(4, 3, 2)], "it works along the rows (axis 0)"),
    case("MeanVarianceNormalization", [Value((4, 3, ROWS, 2))], "it works along the rows (axis 2)"),
    case("MeanVarianceNormalization", [Value((4, 3, 2, ROWS))], "it works along the rows (axis 3)"),
    case("BatchNormalization", [rows(4)], "training_mode is on", training_mode=1),
    case("BatchNormalization", [rows(4)], "training_mode is on", opset=13, outputs=2),
    case("BatchNormalization", [rows(4), rows(4)], "input 1 depends on rows"),
    case("Conv", [Value((4, ROWS, 3)), const(1)], "the rows are axis 1, expected axis 0"),
    case("Conv", [rows(), const(1)], "expected at least 2 dimensions"),
    case("ReduceMean", [rows(4), ints(0)], "it reduces over the rows (axis 0)"),
    case("ReduceMean", [rows(4), ints(-2)], "it reduces over the rows (axis 0)"),
    case("ReduceMean", [Value((4, ROWS))], "it reduces over the rows (axis 1)"),
    case("ReduceMean", [rows(4)], "it reduces over the rows", noop_with_empty_axes=0),
    case("ArgMax", [rows(4)], "it works along the rows (axis 0)"),
    case("TopK", [rows(4), rows()], "k depends on rows"),
    case("TopK", [Value((4, ROWS)), ints(1)], "it works along the rows (axis 1)"),
    case("CumSum", [rows(4)], "it works along the rows (axis 0)"),
    case("CumSum", [rows(4), const()], "the axis is not known before the graph runs"),
    case("Gemm", [rows(4), const(4, 3)], "it sums over the rows", transA=1),
    case("Gemm", [const(3, 4), rows(4)], "it sums over the rows"),
    case("Gemm", [rows(4), const(4, 3), const(7, 3)], "it takes a fixed number of rows: 7"),
    case("MatMul", [rows(4), UNRANKED], "the shape of an input is not known"),
    case("MatMul", [UNRANKED, rows(4)], "the shape of an input is not known"),
    case("MatMul", [rows(4), SIZED], NUMBER_ENTERS),
    case("MatMul", [SIZED, rows(4)], NUMBER_ENTERS),
    case("MatMul", [rows(4), const()], "it takes no scalars"),
    case("MatMul", [const(), const(4)], "it takes no scalars"),
    case("MatMul", [rows(4), Value((4, ROWS))], "it combines each row with every row"),
    case("MatMul", [Value((4, ROWS)), const(1)], "it sums over the rows"),
    case("MatMulInteger", [rows(4), const(4, 1), rows()], "input 2 depends on rows"),
    case("Einsum", [rows(4)], "expected the form ij,jk->ik", equation="ij"),
    case("Einsum", [rows(4)], "expected the form ij,jk->ik", equation="ij,jk->ik"),
    case("Einsum", [rows(4)], "does not fit its inputs", equation="ijk->ik"),
    case("Einsum", [rows(4)], "does not fit its inputs", equation="ii->i"),
    case("Einsum", [rows(4), SIZED], "does not fit its inputs", equation="ij,k->ik"),
    case("Einsum", [rows(4), const(3, 4)], "it takes a fixed number of rows", equation="ij,ij->ij"),
    case("Einsum", [rows(4)], "combines rows", equation="ij->j"),
    case("Einsum", [rows(4), rows(4)], "combines rows", equation="ij,kj->ik"),
    case("QuantizeLinear", [rows(4), rows()], "input 1 depends on rows"),
    case("QuantizeLinear", [rows(4), const(4)], "it works along the rows (axis 0)", axis=0),
    case("QuantizeLinear", [Value((4, ROWS)), const(4)], "it works along the rows (axis 1)"),
    case("Trilu", [rows(4)], "it cuts rows by their place"),
    case("Trilu", [Value((2, ROWS, 4))], "it cuts rows by their place"),
    case("Trilu", [rows(4, 5), rows()], "k depends on rows"),
    case("LSTM", [rows(3, 4)], "the rows are axis 0 of X, expected axis 1"),
    case("LSTM", [Value((3, ROWS, 4))], "the rows are axis 1 of X, expected axis 0", layout=1),
    case("LSTM", [Value((3, ROWS, 4)), None, None, None, const(5)], "its lengths or first states"),
    case("LSTM", [Value((3, ROWS, 4)), rows()], "input 1 depends on rows"),
    case("LinearRegressor", [rows(4, 5)], "expected (rows, features)", domain=ML),
    case("LinearRegressor", [Value((4, ROWS))], "expected (rows, features)", domain=ML),
    case("LinearClassifier", [rows()], "expected (rows, features)", domain=ML),
    case("Scaler", [rows()], "it takes its one dimension for the features of one row", domain=ML),
    case("ArrayFeatureExtractor", [rows(4), rows()], "its choice of columns depends on rows", domain=ML),
    case("ArrayFeatureExtractor", [rows(), const(1)], "it takes its one dimension", domain=ML),
    case("FeatureVectorizer", [rows(4), const(1)], "expected inputs (rows, features)", domain=ML),
    case("FeatureVectorizer", [rows(4), None], "expected inputs (rows, features)", domain=ML),
    case("CDist", [rows(4), rows(4)], "its second input depends on rows", domain="com.microsoft"),
    case("CDist", [const(3, 4), const(7, 4)], "expected (rows, features)", domain="com.microsoft"),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "inputs", "expected", "opset", "options"), ACCEPTED)
def test_an_operator_that_keeps_the_rows_apart_has_a_known_shape(
    operator: str, inputs: list[Value | None], expected: list[Value], opset: int, options: dict[str, Any]
) -> None:
    assert apply(operator, inputs, opset, **options) == expected


@pytest.mark.parametrize(("operator", "inputs", "reason", "opset", "options"), REFUSED)
def test_an_operator_that_can_mix_rows_is_refused_with_the_reason(
    operator: str, inputs: list[Value | None], reason: str, opset: int, options: dict[str, Any]
) -> None:
    with pytest.raises(RowsMixError) as raised:
        apply(operator, inputs, opset, **options)
    assert reason in str(raised.value)
