"""Fitted models of scikit-learn, XGBoost and LightGBM as ONNX graphs, and what the models themselves answer.

A conversion can be silently wrong (isotonic calibration, a scaler in front of trees whose float32 rounding crosses a
split, calibration around a pipeline). So no graph of this module is right until `compare` says so on every row.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import TrainingError, UsageError
from training.shipping.onnx_model import OnnxModel

MATRIX = "rows"
TARGET = {"": 18, "ai.onnx.ml": 3}  # opsets that every converter here knows
TREE_OPSET = 15  # the newest that onnxmltools takes for both kinds of trees
PARITY_LIMIT = 1e-5  # largest difference between a graph and the probabilities of its model


@dataclass(frozen=True)
class Conversion:
    """One way to convert a model, and the graph that it gave."""

    how: str
    model: bytes


def probabilities_of(model: Any, rows: Any, positive_class: Any = None) -> tuple[NDArray[np.float64], int | None]:
    """P(positive class) by the model itself, (rows,), and the column of that class; None for the second of two.

    rows: as the model takes them, an array or a DataFrame. Raises UsageError if the model gives no probabilities.
    """
    values = _raw_probabilities(model, rows)
    if values.ndim == 1 or values.shape[1] == 1:
        return values.reshape(len(values)), None
    column = _class_column(list(getattr(model, "classes_", range(values.shape[1]))), positive_class)
    return values[:, column], None if (column, values.shape[1]) == (1, 2) else column


def _raw_probabilities(model: Any, rows: Any) -> NDArray[np.float64]:
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(rows), np.float64)
    if _is_a(model, "xgboost", "Booster"):
        import xgboost

        return np.asarray(model.predict(xgboost.DMatrix(rows)), np.float64)
    if _is_a(model, "lightgbm", "Booster"):
        return np.asarray(model.predict(rows), np.float64)
    raise UsageError(f"{type(model).__name__}: expected a fitted model with predict_proba, or a Booster")


def _class_column(classes: Sequence[Any], positive_class: Any) -> int:
    if positive_class is None and len(classes) <= 2:
        return len(classes) - 1
    names = [str(label) for label in classes]
    if positive_class is None or str(positive_class) not in names:
        raise UsageError(f"positive_class: expected one of {', '.join(names)}, got {positive_class!r}")
    return names.index(str(positive_class))


def conversions(model: Any, names: Sequence[str], *, named_inputs: bool) -> Iterator[Conversion]:
    """Graphs of the model by each way that there is, the most exact first.

    names: of the columns. named_inputs: the model was fitted on a DataFrame, so it may choose columns by name.
    Raises TrainingError if no way is open.
    """
    failures, count = [], 0
    for how, convert in _ways(model, names, named_inputs):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # converters warn of versions, which the comparison settles
                graph = convert()
        except Exception as error:  # converters raise whatever they meet
            failures.append(f"{how}: {' '.join(str(error).split())[:200] or type(error).__name__}")
            continue
        count += 1
        yield Conversion(how, bytes(graph.SerializeToString()))
    if not count:
        raise TrainingError(f"{type(model).__name__} cannot be converted to ONNX: {'; '.join(failures)}")


def compare(graph: bytes, rows: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """The largest difference between a bundle's graph and the model's own probabilities (rows,)."""
    difference = np.abs(OnnxModel(graph).probabilities(rows) - expected)
    return float(np.max(np.where(np.isnan(difference), np.inf, difference)))


def _ways(model: Any, names: Sequence[str], named_inputs: bool) -> Iterator[tuple[str, Any]]:
    if _is_a(model, "xgboost", "XGBClassifier") or _is_a(model, "xgboost", "Booster"):
        yield "by onnxmltools", lambda: _from_xgboost(model, len(names))
        return
    if _is_a(model, "lightgbm", "LGBMClassifier") or _is_a(model, "lightgbm", "Booster"):
        # The booster alone: the converter takes no labels but text and whole numbers, and none are needed.
        booster = getattr(model, "booster_", model)
        yield "by onnxmltools", lambda: _from_lightgbm(booster, len(names))
        return
    for inputs, text in ((len(names), ""), (tuple(names), ", column by column")):
        if named_inputs or isinstance(inputs, int):
            yield f"by skl2onnx in float32{text}", partial(_from_sklearn, model, "Float", inputs)
            yield f"by skl2onnx in float64{text}", partial(_from_sklearn, model, "Double", inputs)


def _from_sklearn(model: Any, precision: str, inputs: int | Sequence[str]) -> Any:
    from skl2onnx import convert_sklearn
    from skl2onnx.common import data_types

    _register_trees()
    kind = getattr(data_types, f"{precision}TensorType")
    if isinstance(inputs, int):
        types = [(MATRIX, kind([None, inputs]))]
    else:
        types = [(name, kind([None, 1])) for name in inputs]
    options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
    with _integers_for_booleans():
        return convert_sklearn(model, initial_types=types, target_opset=TARGET, options=options)


@contextmanager
def _integers_for_booleans() -> Iterator[None]:
    """skl2onnx 1.20 gives booleans of HistGradientBoosting for integers, which protobuf 7 refuses."""
    from skl2onnx.common import _container

    make_node = _container.make_node

    def make_plain_node(*arguments: Any, **attributes: Any) -> Any:
        plain = {key: _without_booleans(value) for key, value in attributes.items()}
        return make_node(*arguments, **plain)

    _container.make_node = make_plain_node
    try:
        yield
    finally:
        _container.make_node = make_node


def _without_booleans(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(item, bool | np.bool_) for item in value):
        return [int(item) for item in value]
    return value


def _from_xgboost(model: Any, width: int) -> Any:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    renamed = copy.deepcopy(model)
    booster = renamed.get_booster() if hasattr(renamed, "get_booster") else renamed
    booster.feature_names = None  # the converter takes no names but f0, f1, …
    types = [(MATRIX, FloatTensorType([None, width]))]
    return convert_xgboost(renamed, initial_types=types, target_opset=TREE_OPSET)


def _from_lightgbm(model: Any, width: int) -> Any:
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    types = [(MATRIX, FloatTensorType([None, width]))]
    return convert_lightgbm(model, initial_types=types, target_opset=TREE_OPSET, zipmap=False)


def _register_trees() -> None:
    """Teaches skl2onnx the trees of other libraries, for pipelines that end in them."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes

    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    try:
        from lightgbm import LGBMClassifier
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    except ModuleNotFoundError:
        pass
    else:
        update_registered_converter(
            LGBMClassifier, "LightGbmLGBMClassifier", calculate_linear_classifier_output_shapes, convert_lightgbm,
            options=options,
        )  # fmt: skip
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
    from xgboost import XGBClassifier

    update_registered_converter(
        XGBClassifier, "XGBoostXGBClassifier", calculate_linear_classifier_output_shapes, convert_xgboost,
        options=options,
    )  # fmt: skip


def _is_a(model: Any, module: str, name: str) -> bool:
    """Without importing a library that the model cannot be of."""
    return any(cls.__module__.split(".")[0] == module and cls.__name__ == name for cls in type(model).__mro__)
