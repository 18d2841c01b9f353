"""The operators that cannot mix rows of a batch, each with the condition under which that holds.

A rule takes a node with the `Value` of each input. It returns the `Value` of each output, or raises RowsMixError. An
operator without a rule is refused: loops and branches over rows, sorting and searching across a tensor, random
numbers, quantization by the range of the whole tensor, and operators that are not yet reviewed. Definitions:
https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from server.core.row_shape_rules import SHAPE_RULES
from server.core.row_values import (
    ROWS,
    Call,
    Dim,
    RowsMixError,
    Rule,
    Value,
    along,
    broadcast,
    known_ints,
    matmul,
    require_const,
)


def _unary(call: Call) -> Sequence[Value]:
    call.require_const_from(1)
    return [Value(call.first.dims, None, call.first.sized)]


def _same(call: Call) -> Sequence[Value]:
    return [call.first]


def _elementwise(call: Call) -> Sequence[Value]:
    result = broadcast(call.inputs)
    if call.node.operator in _ARITHMETIC and len(call.inputs) == 2:
        pairs = [value.ints for value in call.inputs if value is not None and value.ints is not None]
        if len(pairs) == 2 and all(len(ints) == 1 and isinstance(ints[0], int) for ints in pairs):
            left, right = (int(ints[0] or 0) for ints in pairs)
            if call.node.operator != "Div" or right:
                return [Value(result.dims, (_ARITHMETIC[call.node.operator](left, right),))]
    return [result]


_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "Add": lambda left, right: left + right,
    "Sub": lambda left, right: left - right,
    "Mul": lambda left, right: left * right,
    "Div": lambda left, right: int(left / right),
}


def _cast_like(call: Call) -> Sequence[Value]:
    return [call.first]  # the second input gives its type only


def _dropout(call: Call) -> Sequence[Value]:
    training = known_ints(call.optional(2), "training_mode")
    if training and training[0]:
        raise RowsMixError("training_mode is on: its values are random")
    return [call.first, Value(call.first.dims)]


def _softmax(call: Call) -> Sequence[Value]:
    value, axis = call.first, call.first.axis(call.node.integer("axis", -1 if call.opset >= 13 else 1))
    if value.rows is not None and (value.rows >= axis if call.opset < 13 else value.rows == axis):
        raise RowsMixError(f"it normalizes over the rows (axis {axis})")
    return [value.reshaped(value.dims or ())]


def _layer_norm(call: Call) -> Sequence[Value]:
    call.require_const_from(1)
    value, axis = call.first, call.first.axis(call.node.integer("axis", -1))
    if value.rows is not None and value.rows >= axis:
        raise RowsMixError(f"it normalizes over the rows (axes from {axis})")
    statistics = value.reshaped([*(value.dims or ())[:axis], *[1] * (value.rank - axis)])
    return [value, statistics, statistics]


def _norm_along(default: int) -> Rule:
    def rule(call: Call) -> Sequence[Value]:
        value, axis = call.first, call.first.axis(call.node.integer("axis", default))
        along(value, axis)
        return [value]

    return rule


def _batch_norm(call: Call) -> Sequence[Value]:
    call.require_const_from(1)
    outputs = [name for name in call.node.outputs if name]
    if call.node.integer("training_mode", 0) or (call.opset < 14 and len(outputs) > 1):
        raise RowsMixError("training_mode is on: it normalizes over the batch")
    return _with_batch_first(call)


def _with_batch_first(call: Call) -> Sequence[Value]:
    """Normalization and convolution: axis 0 is the batch, axis 1 the channels. Sizes of other axes may change."""
    call.require_const_from(1)
    value = call.first
    if value.rows not in (None, 0):
        raise RowsMixError(f"the rows are axis {value.rows}, expected axis 0")
    if value.rows == 0 and value.rank < 2:
        raise RowsMixError("expected at least 2 dimensions, the rows first")
    keeps_shape = call.node.operator in {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN"}
    dims = value.dims if value.dims is None or keeps_shape else (value.dims[0], *[None] * (value.rank - 1))
    return [Value(dims, None, value.sized)]


def _mean_variance(call: Call) -> Sequence[Value]:
    for axis in call.node.integers("axes") or (0, 2, 3):
        along(call.first, axis)
    return [call.first]


def _reduce(call: Call) -> Sequence[Value]:
    value, axes = call.first, call.axes()
    if value.dims is None:
        return [Value(None, None, value.sized)]
    if not axes:
        if call.node.integer("noop_with_empty_axes", 0):
            return [value]
        axes = tuple(range(value.rank))
    reduced = {value.axis(axis) for axis in axes}
    if value.rows in reduced:
        raise RowsMixError(f"it reduces over the rows (axis {value.rows})")
    keep = call.node.integer("keepdims", 1)
    dims = [1 if at in reduced else dim for at, dim in enumerate(value.dims) if keep or at not in reduced]
    return [value.reshaped(dims)]


def _arg_extreme(call: Call) -> Sequence[Value]:
    value, axis = call.first, call.first.axis(call.node.integer("axis", 0))
    result = along(value, axis, 1)
    if not call.node.integer("keepdims", 1):
        result = value.reshaped([dim for at, dim in enumerate(value.dims or ()) if at != axis])
    return [result]


def _top_k(call: Call) -> Sequence[Value]:
    require_const(call.optional(1), "k")
    count = call.optional(1)
    known = count.ints[0] if count is not None and count.ints else None
    result = along(call.first, call.node.integer("axis", -1), known if isinstance(known, int) else None)
    return [result, result]


def _cumsum(call: Call) -> Sequence[Value]:
    axes = known_ints(call.optional(1), "the axis")
    along(call.first, axes[0] if axes else 0)
    return [call.first]


def _gemm(call: Call) -> Sequence[Value]:
    factors = []
    for index, name in ((0, "transA"), (1, "transB")):
        value = call.input(index)
        turned = value.dims is not None and call.node.integer(name, 0)
        factors.append(value.reshaped((value.dims or ())[::-1]) if turned else value)
    product = matmul(factors[0], factors[1])
    return [broadcast([product, call.optional(2)])]


def _matmul(call: Call) -> Sequence[Value]:
    call.require_const_from(2)
    return [matmul(call.first, call.input(1))]


def _einsum(call: Call) -> Sequence[Value]:
    equation = call.node.string("equation").replace(" ", "")
    match = re.fullmatch(r"([A-Za-z,]+)->([A-Za-z]*)", equation)
    terms = match[1].split(",") if match else []
    if match is None or len(terms) != len(call.inputs):
        raise RowsMixError(f"equation {equation[:64]!r}: expected the form ij,jk->ik")
    letters: dict[str, Dim] = {}
    row_letters = set()
    for index, term in enumerate(terms):
        value = call.input(index)
        if value.sized or value.rank != len(term) or len(set(term)) != len(term):
            raise RowsMixError(f"equation {equation[:64]!r} does not fit its inputs")
        for letter, dim in zip(term, value.dims or (), strict=True):
            letters[letter] = ROWS if ROWS in (dim, letters.get(letter)) else dim
        if value.rows is not None:
            row_letters.add(term[value.rows])
    for term, factor in zip(terms, call.inputs, strict=True):
        if factor is not None and factor.rows is None and row_letters & set(term):
            raise RowsMixError("it takes a fixed number of rows")
    if len(row_letters) > 1 or not row_letters <= set(match[2]):
        raise RowsMixError(f"equation {equation[:64]!r} combines rows")
    return [Value(tuple(letters.get(letter) for letter in match[2]))]


def _quantize(call: Call) -> Sequence[Value]:
    call.require_const_from(1)
    scale = call.input(1)
    if scale.dims not in ((), (1,)):
        along(call.first, call.node.integer("axis", 1))
    return [call.first]


def _triangle(call: Call) -> Sequence[Value]:
    require_const(call.optional(1), "k")
    value = call.first
    if value.rows is not None and value.rows >= value.rank - 2:
        raise RowsMixError("it cuts rows by their place")
    return [value]


def _recurrent(call: Call) -> Sequence[Value]:
    """RNN, GRU, LSTM: X is (sequence, batch, input), or (batch, sequence, input) with layout 1."""
    call.require_const_from(1)
    value, batch = call.first, 0 if call.node.integer("layout", 0) else 1
    if value.rows != batch:
        raise RowsMixError(f"the rows are axis {value.rows} of X, expected axis {batch}")
    if any(state is not None for state in call.inputs[4:]):
        raise RowsMixError("its lengths or first states take a fixed number of rows")
    if batch == 0:
        return [Value((ROWS, None, None, None)), Value((ROWS, None, None)), Value((ROWS, None, None))]
    return [Value((None, None, ROWS, None)), Value((None, ROWS, None)), Value((None, ROWS, None))]


def _row_model(call: Call) -> Value:
    """A model of ai.onnx.ml over (rows, features)."""
    value = call.first
    if value.rows != 0 or value.rank != 2:
        raise RowsMixError("expected (rows, features)")
    return value


def _regressor(call: Call) -> Sequence[Value]:
    _row_model(call)
    name = "targets" if call.node.operator == "LinearRegressor" else "n_targets"
    return [Value((ROWS, call.node.integer(name, 1)))]


def _classifier(call: Call) -> Sequence[Value]:
    _row_model(call)
    node = call.node
    ints = ("classlabels_int64s", "classlabels_ints")
    classes = max(node.count(name) for name in (*ints, "classlabels_strings")) or None
    return [Value((ROWS,)), Value((ROWS, None if node.operator == "SVMClassifier" else classes))]


def _per_row(call: Call) -> Sequence[Value]:
    """Operators of ai.onnx.ml that work along the last axis, and take a tensor of one dimension for one row."""
    value = call.first
    if value.rows is not None and value.rows == value.rank - 1:
        raise RowsMixError("it takes its one dimension for the features of one row")
    return [value]


def _array_feature_extractor(call: Call) -> Sequence[Value]:
    require_const(call.input(1), "its choice of columns")
    value = _per_row(call)[0]
    if value.rank < 2:
        return [Value((1, None), None, value.sized)]
    indices = call.input(1).dims
    return [along(value, -1, indices[-1] if indices else 1)]


def _feature_vectorizer(call: Call) -> Sequence[Value]:
    if not all(value is not None and value.rows == 0 for value in call.inputs):
        raise RowsMixError("expected inputs (rows, features)")
    return [Value((ROWS, None))]


def _one_hot_encoder(call: Call) -> Sequence[Value]:
    count = max(call.node.count("cats_int64s"), call.node.count("cats_strings")) or None
    return [call.first.reshaped([*(call.first.dims or ()), count])]


def _distances(call: Call) -> Sequence[Value]:
    require_const(call.input(1), "its second input")
    other = call.input(1).dims
    return [Value((_row_model(call).size(0), other[0] if other else None))]


def _names(text: str) -> list[str]:
    return text.split()


_UNARY = _names(
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish "
    "IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign "
    "Sqrt Swish Tan Tanh ThresholdedRelu"
)
_ELEMENTWISE = _names(
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Clip Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean "
    "Min Mod Mul Or Pow PRelu Sub Sum Where Xor"
)
_REDUCTIONS = _names("L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare")
_BATCH_FIRST = _names(
    "AveragePool Conv ConvTranspose GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization "
    "InstanceNormalization LpPool LRN MaxPool"
)

RULES: dict[tuple[str, str], Rule] = {
    **SHAPE_RULES,
    **{("", name): _unary for name in _UNARY},
    **{("", name): _elementwise for name in _ELEMENTWISE},
    **{("", f"Reduce{name}"): _reduce for name in _REDUCTIONS},
    **{("", name): _with_batch_first for name in _BATCH_FIRST},
    **{("", name): _softmax for name in ("Softmax", "LogSoftmax", "Hardmax")},
    **{("", name): _arg_extreme for name in ("ArgMax", "ArgMin")},
    **{("", name): _recurrent for name in ("RNN", "GRU", "LSTM")},
    **{("", name): _quantize for name in ("QuantizeLinear", "DequantizeLinear")},
    **{("", name): _matmul for name in ("MatMul", "MatMulInteger")},
    **{("", name): _same for name in ("Cast", "Identity")},
    ("", "BatchNormalization"): _batch_norm,
    ("", "CastLike"): _cast_like,
    ("", "CumSum"): _cumsum,
    ("", "Dropout"): _dropout,
    ("", "Einsum"): _einsum,
    ("", "Gemm"): _gemm,
    ("", "LayerNormalization"): _layer_norm,
    ("", "LpNormalization"): _norm_along(-1),
    ("", "MeanVarianceNormalization"): _mean_variance,
    ("", "RMSNormalization"): _layer_norm,
    ("", "TopK"): _top_k,
    ("", "Trilu"): _triangle,
    **{("ai.onnx.ml", name): _per_row for name in ("Normalizer", "Scaler", "Imputer", "Binarizer")},
    **{("ai.onnx.ml", name): _unary for name in ("LabelEncoder", "CategoryMapper")},
    **{("ai.onnx.ml", name): _regressor for name in ("TreeEnsembleRegressor", "TreeEnsemble", "LinearRegressor")},
    **{("ai.onnx.ml", name): _classifier for name in ("TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier")},
    ("ai.onnx.ml", "SVMRegressor"): _regressor,
    ("ai.onnx.ml", "ArrayFeatureExtractor"): _array_feature_extractor,
    ("ai.onnx.ml", "FeatureVectorizer"): _feature_vectorizer,
    ("ai.onnx.ml", "OneHotEncoder"): _one_hot_encoder,
    **{("com.microsoft", name): _unary for name in ("Gelu", "FastGelu", "QuickGelu")},
    ("com.microsoft", "CDist"): _distances,
}
