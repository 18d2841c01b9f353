"""Rows as named tensors: the matrix `features`, or one tensor for each feature."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import RequestError
from common.schema import FeatureSchema
from common.text import MAX_SHOWN, listed, shown
from server.core.arrays import Matrix
from server.core.rows import FLOAT64, all_finite

FEATURES = "features"


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """A tensor of one or two dimensions, float32 or float64, row-major. `values` has as many values as its shape."""

    name: str
    shape: tuple[int, ...]
    values: NDArray[np.floating[Any]]


class TensorInput(msgspec.Struct, frozen=True):
    """The tensors of one request. Names and shapes are not yet checked against a schema."""

    tensors: list[Tensor]

    def to_matrix(self, schema: FeatureSchema, max_rows: int) -> Matrix:
        """As RowSource: the matrix (rows, features of `schema`); raises RequestError."""
        tensors = self.tensors
        if len(tensors) == 1 and tensors[0].name == FEATURES:
            return _whole(tensors[0], schema, max_rows)
        _require_each_feature_once(tensors, schema)
        return _by_feature(tensors, schema, max_rows)


def _whole(tensor: Tensor, schema: FeatureSchema, max_rows: int) -> Matrix:
    shape, width = tensor.shape, len(schema)
    if len(shape) != 2 or shape[1] != width or not 0 < shape[0] <= max_rows:
        expected = f"[rows, {width}], 1 to {max_rows} rows"
        raise RequestError.of("inputs[0].shape", f"{FEATURES}: expected {expected}, got {list(shape)}")
    if not all_finite(tensor.values):
        row, column = divmod(int(np.argmin(np.isfinite(tensor.values))), width)
        value = tensor.values[row * width + column]
        what = f"row {row}, feature {shown(schema.names[column])}: expected a finite number, got {value}"
        raise RequestError.of("inputs[0]", what)
    # float32 widens exactly (checked first, since NumPy warns of a signalling NaN); float64 is not copied.
    return np.asarray(tensor.values, FLOAT64).reshape(shape)


def _require_each_feature_once(tensors: list[Tensor], schema: FeatureSchema) -> None:
    known, seen = frozenset(schema.names), set[str]()
    for index, tensor in enumerate(tensors):
        field, name = f"inputs[{index}].name", tensor.name
        if name in seen:
            raise RequestError.of(field, f"{name[:MAX_SHOWN]!r} is given twice")
        if name not in known:
            takes = f"{FEATURES!r} alone, or each feature of schema {shown(schema.name)}"
            raise RequestError.of(field, f"no input {name[:MAX_SHOWN]!r} here; the model takes {takes}")
        seen.add(name)
    if len(seen) < len(known):
        missing = listed(name for name in schema.names if name not in seen) if seen else FEATURES
        raise RequestError.of("inputs", f"missing: {missing}")


def _by_feature(tensors: list[Tensor], schema: FeatureSchema, max_rows: int) -> Matrix:
    rows = tensors[0].shape[0]
    matrix = np.empty((rows if 0 < rows <= max_rows else 0, len(schema)), FLOAT64)
    columns = {name: column for column, name in enumerate(schema.names)}
    for index, tensor in enumerate(tensors):
        shape = tensor.shape
        if not 0 < shape[0] <= max_rows or shape[0] != rows or shape[1:] not in ((), (1,)):
            of = f"{rows} rows as inputs[0] has" if index and 0 < rows <= max_rows else f"1 to {max_rows} rows"
            expected = f"[rows] or [rows, 1], {of}"
            raise RequestError.of(
                f"inputs[{index}].shape", f"{shown(tensor.name)}: expected {expected}, got {list(shape)}"
            )
        if not all_finite(tensor.values):
            row = int(np.argmin(np.isfinite(tensor.values)))
            what = f"row {row}, feature {shown(tensor.name)}: expected a finite number, got {tensor.values[row]}"
            raise RequestError.of(f"inputs[{index}]", what)
        matrix[:, columns[tensor.name]] = tensor.values
    return matrix
