"""The logistic model as an ONNX graph that takes core/1 rows as they are, and the gate it must pass.

    probability = Sigmoid(Log(Abs(features) + offsets) · weights + bias)

in double precision from end to end; docs/decisions/0003-onnx-export.md says why it is composed by
hand. Columns the model does not use have weight 0. Every finite row, however wild, gives a finite
probability: Abs(x) + offset is above 0, its log within ±745, and the sigmoid of any number is in [0, 1].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper

from common.errors import TrainingError
from common.schema import CORE_1
from training.inputs import COLUMNS, OFFSETS
from training.models import Fitted

OPSET = 18
IR_VERSION = 8  # of ONNX 1.10: old enough for any runtime we meet
WEIGHT_DIGITS = 10  # rounding hides the last bits, which differ between processors
PARITY_LIMIT = 1e-5


def to_onnx(fitted: Fitted) -> bytes:
    """The model's bytes: the same for the same fit, with nothing in them of who made it or where."""
    weights, bias = fitted.linear_form()
    offset = np.ones(len(CORE_1))
    offset[list(COLUMNS)] = list(OFFSETS.values())
    weight = np.zeros((len(CORE_1), 1))
    weight[list(COLUMNS), 0] = [_rounded(value) for value in weights]
    nodes = [
        helper.make_node("Abs", ["features"], ["size"]),
        helper.make_node("Add", ["size", "offset"], ["above_zero"]),
        helper.make_node("Log", ["above_zero"], ["logs"]),
        helper.make_node("Gemm", ["logs", "weight", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    constants = {"offset": offset, "weight": weight, "bias": np.array([_rounded(bias)])}
    graph = helper.make_graph(
        nodes,
        "volatility",
        [helper.make_tensor_value_info("features", TensorProto.DOUBLE, ["rows", len(CORE_1)])],
        [helper.make_tensor_value_info("probability", TensorProto.DOUBLE, ["rows", 1])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="volcast"
    )
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def session(model: bytes) -> Any:
    """The model in ONNX Runtime, on one thread as the server runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_probabilities(model: bytes, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """What ONNX Runtime says of (rows, 11); shape (rows,)."""
    (probability,) = session(model).run(["probability"], {"features": np.ascontiguousarray(features)})
    return np.asarray(probability, dtype=np.float64).reshape(-1)


def check_parity(exported: NDArray[np.float64], trained: NDArray[np.float64]) -> float:
    """The largest difference over (rows,); raises TrainingError where it is above the limit or not a number."""
    difference = np.abs(exported - trained)
    error = float(np.max(difference))
    if not error <= PARITY_LIMIT:
        raise TrainingError(
            f"the ONNX form differs from the trained form by {error:.3g} on row {int(np.argmax(difference))} of "
            f"{len(trained)}; at most {PARITY_LIMIT} is allowed"
        )
    return error


def _rounded(value: float) -> float:
    return float(f"{value:.{WEIGHT_DIGITS}g}")
