"""ONNX files as people export them, each with the probabilities of the model that it was made of."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import lightgbm
import numpy as np
import onnx
import xgboost
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.server.bundles import EXAMPLE, WIDTH
from tests.server.bundles import rows as draw_rows

Matrix = NDArray[np.float64]
TRAINING_ROWS = 600


@dataclass(frozen=True)
class Export:
    """A file, and P(spike) of the original model for rows (rows, features)."""

    model: onnx.ModelProto
    probabilities: Callable[[Matrix], Matrix]


def training_data(width: int = WIDTH) -> tuple[Matrix, NDArray[np.int64]]:
    """Rows around a plausible one, and a label that hangs on two columns."""
    random = np.random.default_rng(7)
    matrix = draw_rows(TRAINING_ROWS, 7) if width == WIDTH else random.uniform(0.1, 3, (TRAINING_ROWS, width))
    ratio = matrix / (np.array(EXAMPLE) if width == WIDTH else np.full(width, 1.5))
    return matrix, (ratio[:, -1] + ratio[:, min(6, width - 1)] + random.normal(0, 0.4, len(matrix)) > 2.5).astype(int)


def forest(labels: Sequence[Any] = (0, 1), **options: Any) -> tuple[Any, Matrix]:
    matrix, y = training_data()
    return RandomForestClassifier(20, random_state=0, **options).fit(matrix, np.array(labels)[y]), matrix


def sklearn_export(model: Any, *, double: bool = False, width: int = WIDTH, **options: Any) -> Export:
    """By skl2onnx, as its documentation shows it; options: zipmap, …"""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    kind = DoubleTensorType if double else FloatTensorType
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        proto = convert_sklearn(
            model, initial_types=[("X", kind([None, width]))], options={id(model): options} if options else None
        )
    return Export(proto, lambda rows: second_class(model, rows))


def second_class(model: Any, rows: Matrix) -> Matrix:
    return np.asarray(model.predict_proba(rows)[:, 1], np.float64)


def lightgbm_export() -> Export:
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    matrix, y = training_data()
    model = lightgbm.LGBMClassifier(n_estimators=20, num_threads=1, verbose=-1).fit(matrix, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        proto = convert_lightgbm(model, initial_types=[("input", FloatTensorType([None, WIDTH]))])
    return Export(proto, lambda rows: np.asarray(model.booster_.predict(rows), np.float64))


def xgboost_export() -> Export:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    matrix, y = training_data()
    model = xgboost.XGBClassifier(n_estimators=20, n_jobs=1).fit(matrix, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        proto = convert_xgboost(model, initial_types=[("input", FloatTensorType([None, WIDTH]))], target_opset=15)
    return Export(proto, lambda rows: second_class(model, rows))


@dataclass(frozen=True)
class Network:
    """An MLP as torch.onnx.export writes it: Gemm, Relu, Gemm, Sigmoid, with weights on the standard scale."""

    width: int = WIDTH
    columns: int = 1
    rows: int | str = "batch"
    element: int = TensorProto.FLOAT
    last: str = "Sigmoid"
    opset: int = 17
    seed: int = 3

    def weights(self) -> list[NDArray[Any]]:
        random = np.random.default_rng(self.seed)
        scale = 1 / np.array(EXAMPLE if self.width == WIDTH else [1.5] * self.width)
        first = random.normal(0, 0.4, (self.width, 8)) * scale[:, None]
        kind = helper.tensor_dtype_to_np_dtype(self.element)
        arrays = [first, np.zeros(8), random.normal(0, 0.7, (8, self.columns)), np.full(self.columns, 0.1)]
        return [array.astype(kind) for array in arrays]

    def proto(self, *, taken: str = "input", given: str = "output", nodes: Sequence[Any] | None = None) -> Any:
        names = ("w1", "b1", "w2", "b2")
        last: dict[str, Any] = {"axis": 1} if self.last == "Softmax" else {}
        made = nodes or [
            helper.make_node("Gemm", [taken, "w1", "b1"], ["/Gemm_output_0"]),
            helper.make_node("Relu", ["/Gemm_output_0"], ["/Relu_output_0"]),
            helper.make_node("Gemm", ["/Relu_output_0", "w2", "b2"], ["/Gemm_1_output_0"]),
            helper.make_node(self.last, ["/Gemm_1_output_0"], [given], **last),
        ]
        graph = helper.make_graph(
            made,
            "main_graph",
            [helper.make_tensor_value_info(taken, self.element, [self.rows, self.width])],
            [helper.make_tensor_value_info(given, self.element, [self.rows, self.columns])],
            [numpy_helper.from_array(array, name) for array, name in zip(self.weights(), names, strict=True)],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def probabilities(self, rows: Matrix, column: int = 0) -> Matrix:
        w1, b1, w2, b2 = (array.astype(np.float64) for array in self.weights())
        scores = np.maximum(rows @ w1 + b1, 0) @ w2 + b2
        if self.last == "Sigmoid":
            return np.asarray(1 / (1 + np.exp(-scores[:, column])))
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(shifted[:, column] / shifted.sum(axis=1))

    def export(self) -> Export:
        return Export(self.proto(), self.probabilities)


def scaled_logistic() -> Any:
    matrix, y = training_data()
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(matrix, y)


# The exports that people tried first.
SEVEN: dict[str, Callable[[], Export]] = {
    "forest with ZipMap, float32": lambda: sklearn_export(forest()[0]),
    "forest without ZipMap": lambda: sklearn_export(forest()[0], zipmap=False),
    "forest, float64": lambda: sklearn_export(forest()[0], double=True, zipmap=False),
    "forest, labels of text": lambda: sklearn_export(forest(("calm", "spike"))[0]),
    "scaler and logistic regression": lambda: sklearn_export(scaled_logistic()),
    "LightGBM": lightgbm_export,
    "MLP, float32 [batch, 11]": lambda: Network().export(),
}


@cache
def seven(name: str) -> Export:
    return SEVEN[name]()
