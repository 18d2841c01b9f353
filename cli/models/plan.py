"""How features become a graph's inputs and which of its outputs is the probability: decided before anything changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from cli.models.graph import needed_nodes, reads
from common.errors import BundleError, UsageError
from common.schema import FeatureSchema
from server.core.graph_signature import FORECAST_INPUTS

_T = onnx.TensorProto
INPUT_TYPES: dict[int, Any] = {
    _T.FLOAT: np.float32, _T.DOUBLE: np.float64, _T.FLOAT16: np.float16, _T.INT64: np.int64, _T.INT32: np.int32,
    _T.INT16: np.int16, _T.INT8: np.int8, _T.UINT8: np.uint8, _T.UINT16: np.uint16, _T.BOOL: np.bool_,
}  # fmt: skip
FLOAT_TYPES = {_T.FLOAT, _T.DOUBLE, _T.FLOAT16}
MAX_COLUMN_DIGITS = 9  # int() refuses thousands of digits
CLASSIFIERS = {"TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier"}


@dataclass(frozen=True)
class InputPlan:
    """One input of the graph: the whole matrix (columns None), or some columns of it."""

    name: str
    element: int  # TensorProto.DataType
    columns: tuple[int, ...] | None = None
    flat: bool = False  # one column as (rows,), not (rows, 1)

    def values(self, matrix: NDArray[np.float64]) -> NDArray[Any]:
        """The input's array for rows of features (rows, features)."""
        part = matrix if self.columns is None else matrix[:, list(self.columns)]
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(part.reshape(-1) if self.flat else part).astype(INPUT_TYPES[self.element])


@dataclass(frozen=True)
class OutputPlan:
    """The tensor of the probability, and the output of the file that it stands for."""

    name: str
    tensor: str
    column: int | None = None  # None: not chosen by the user
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    inputs: tuple[InputPlan, ...]
    output: OutputPlan
    fixed_batch: int | None = None  # rows, if the file takes that many only
    notes: tuple[str, ...] = field(default=())


def plan(model: Any, schema: FeatureSchema, output: str | None = None, columns: tuple[str, ...] | None = None) -> Plan:
    """Raises BundleError if the graph does not fit, UsageError if `output` names nothing of it.

    columns: the features that the graph's matrix takes, in its order, if they are not the schema's.
    """
    if {value.name for value in model.graph.input} >= FORECAST_INPUTS:
        raise BundleError(
            f"inputs {', '.join(sorted(FORECAST_INPUTS))}: the graph of a forecast model; its manifest must state the "
            "spike size and base rates, which only training knows"
        )
    chosen = _output(model.graph, output)
    given = _needed_inputs(model.graph, chosen.tensor)
    inputs = _inputs(given, schema, columns or schema.names)
    fixed = next((rows for value in given if (rows := _fixed_batch(value)) is not None), None)
    return Plan(inputs, chosen, fixed, _unused(inputs, schema))


def _needed_inputs(graph: Any, tensor: str) -> list[Any]:
    """The inputs that a tensor depends on, without constants that old files list as inputs."""
    used = {name for node in needed_nodes(graph, tensor) for name in reads(node)} | {tensor}
    constants = {constant.name for constant in graph.initializer}
    return [value for value in graph.input if value.name in used - constants]


def _inputs(given: Sequence[Any], schema: FeatureSchema, columns: tuple[str, ...]) -> tuple[InputPlan, ...]:
    if not given:
        raise BundleError("the probability depends on no input of the graph")
    for value in given:
        if value.type.WhichOneof("value") != "tensor_type":
            raise BundleError(f"input {value.name}: expected a tensor, got {describe(value)}")
        if value.type.tensor_type.elem_type not in INPUT_TYPES:
            raise BundleError(f"input {value.name}: expected numbers, got {describe(value)}")
    if all(value.name in schema.names and _is_one_feature(value) for value in given):
        return tuple(
            InputPlan(value.name, _element(value), (schema.names.index(value.name),), len(_shape(value) or (0, 0)) == 1)
            for value in given
        )
    if len(given) == 1:
        return (_matrix(given[0], schema, columns),)
    unknown = [value.name for value in given if value.name not in schema.names]
    if unknown:
        raise BundleError(
            f"inputs {', '.join(unknown[:8])}{', …' if len(unknown) > 8 else ''} are no features of schema "
            f"{schema.name}; name your own with --features FILE"
        )
    odd = next(value for value in given if not _is_one_feature(value))
    raise BundleError(f"input {odd.name}: expected one feature, [rows] or [rows, 1], got {describe(odd)}")


def _matrix(value: Any, schema: FeatureSchema, columns: tuple[str, ...]) -> InputPlan:
    shape, width = _shape(value), len(columns)
    if shape is not None and len(shape) != 2:
        raise BundleError(f"input {value.name}: expected [rows, features], got {describe(value)}")
    if shape is not None and isinstance(shape[1], int) and shape[1] != width:
        raise BundleError(
            f"input {value.name}: takes {shape[1]} features, schema {schema.name} has {width}; name your own with "
            "--features FILE"
        )
    if columns == schema.names:
        return InputPlan(value.name, _element(value))
    return InputPlan(value.name, _element(value), tuple(schema.names.index(name) for name in columns))


def _unused(inputs: tuple[InputPlan, ...], schema: FeatureSchema) -> tuple[str, ...]:
    if any(given.columns is None for given in inputs):
        return ()
    taken = {column for given in inputs for column in given.columns or ()}
    unused = [name for index, name in enumerate(schema.names) if index not in taken]
    return (f"features that the graph does not take: {', '.join(unused)}",) if unused else ()


def _output(graph: Any, text: str | None) -> OutputPlan:
    makers = {name: node for node in graph.node for name in node.output if name}
    usable = [candidate for value in graph.output if (candidate := _candidate(value, makers)) is not None]
    listed = ", ".join(f"{value.name} {describe(value)}" for value in graph.output)
    if text is not None:
        return _chosen(usable, text, graph, listed)
    if not usable:
        raise BundleError(f"no output can be a probability; outputs: {listed}")
    if len(usable) > 1:
        usable = [output for output in usable if "prob" in output.name.lower()] or usable
    if len(usable) > 1:
        raise BundleError(f"name the probability with --output NAME[:COLUMN]; outputs: {listed}")
    return usable[0]


def _candidate(value: Any, makers: dict[str, Any]) -> OutputPlan | None:
    """The output as a float tensor; a ZipMap's maps are read from the tensor that it takes."""
    kind = value.type.WhichOneof("value")
    if kind == "tensor_type" and value.type.tensor_type.elem_type in FLOAT_TYPES:
        return OutputPlan(value.name, value.name, classes=_classes(makers))
    node = makers.get(value.name)
    while node is not None and node.op_type == "Identity":
        node = makers.get(node.input[0])
    if kind == "sequence_type" and node is not None and node.op_type == "ZipMap":
        return OutputPlan(value.name, node.input[0], classes=_class_labels(node))
    return None


def _classes(makers: dict[str, Any]) -> tuple[str, ...]:
    """Of the one classifier in the graph; none if there are several, whose order is not known."""
    classifiers = {id(node): node for node in makers.values() if node.op_type in CLASSIFIERS}
    return _class_labels(next(iter(classifiers.values()))) if len(classifiers) == 1 else ()


def _class_labels(node: Any) -> tuple[str, ...]:
    for attribute in node.attribute:
        if attribute.name in ("classlabels_int64s", "classlabels_ints") and attribute.ints:
            return tuple(str(label) for label in attribute.ints)
        if attribute.name in ("classlabels_strings", "classlabels") and attribute.strings:
            return tuple(label.decode("utf-8", "backslashreplace") for label in attribute.strings)
    return ()


def _chosen(usable: list[OutputPlan], text: str, graph: Any, listed: str) -> OutputPlan:
    names = {value.name for value in graph.output}
    name, column = (text, "") if text in names else (text.rpartition(":")[0] or text, text.rpartition(":")[2])
    if name not in names:
        raise UsageError(f"--output: no output {name!r}; outputs: {listed}")
    output = next((candidate for candidate in usable if candidate.name == name), None)
    if output is None:
        raise BundleError(f"output {name} holds no probabilities; outputs: {listed}")
    if not column:
        return output
    if column.isascii() and column.isdecimal() and len(column) <= MAX_COLUMN_DIGITS:
        return OutputPlan(name, output.tensor, int(column), output.classes)
    if column in output.classes:
        return OutputPlan(name, output.tensor, output.classes.index(column), output.classes)
    classes = f", or one of its classes {', '.join(output.classes)}" if output.classes else ""
    raise UsageError(f"--output: COLUMN: expected a number from 0{classes}, got {column[:40]!r}")


def describe(value: Any) -> str:
    """Type and shape of an input or output, for messages."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return (kind or "no type").removesuffix("_type")
    shape = _shape(value)
    dims = "of unknown shape" if shape is None else f"[{', '.join(str(size) for size in shape)}]"
    return f"{type_name(_element(value))} {dims}"


def type_name(element: int) -> str:
    return str(_T.DataType.Name(element)).lower() if element in _T.DataType.values() else f"type {element}"


def _element(value: Any) -> int:
    return int(value.type.tensor_type.elem_type)


def _shape(value: Any) -> list[int | str] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in tensor.shape.dim]


def _is_one_feature(value: Any) -> bool:
    if value.type.WhichOneof("value") != "tensor_type":
        return False
    shape = _shape(value)
    return shape is None or len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)


def _fixed_batch(value: Any) -> int | None:
    shape = _shape(value)
    return shape[0] if shape and isinstance(shape[0], int) else None
