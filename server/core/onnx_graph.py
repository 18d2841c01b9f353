"""The nodes and constants of an ONNX graph, read from the file's bytes without the onnx package.

It reads only the parts that the check of row independence (row_independence.py) needs. Field numbers are those of
onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from server.core.onnx_wire import Field, span, text, varint, wire_fields

Span = tuple[int, int]
# Shapes, axes, indices and flags are short; weights are long, and only their shape matters.
MAX_READ_VALUES = 4096
_INTEGER_TYPES = {6: "<i4", 7: "<i8", 9: "?"}  # TensorProto.DataType: INT32, INT64, BOOL


@dataclass(frozen=True)
class Constant:
    """An initializer, or the value of a Constant node."""

    shape: tuple[int, ...]
    ints: tuple[int, ...] | None  # in order, if the type is integer or bool and there are few of them


@dataclass(frozen=True)
class Node:
    operator: str
    domain: str  # "" is ai.onnx
    name: str
    inputs: tuple[str, ...]  # "" is an input left out
    outputs: tuple[str, ...]
    attributes: Mapping[str, Span]
    data: bytes = field(repr=False)

    def integer(self, name: str, default: int) -> int:
        values = [value for number, value in self._fields(name) if number == 3 and isinstance(value, int)]
        return _signed(values[-1]) if values else default  # the last value counts, as in any parser

    def integers(self, name: str) -> tuple[int, ...] | None:
        if name not in self.attributes:
            return None
        return tuple(_repeated_ints(self.data, self._fields(name), 8))

    def string(self, name: str) -> str:
        values = [value for number, value in self._fields(name) if number == 4]
        return text(self.data, values[-1]) if values else ""

    def constant(self, name: str) -> Constant | None:
        return next(
            (read_tensor(self.data, *span(value))[1] for number, value in self._fields(name) if number == 5), None
        )

    def count(self, name: str) -> int:
        """The number of values in a list."""
        fields = list(self._fields(name))
        return len(_repeated_ints(self.data, fields, 8)) + sum(number in (7, 9) for number, _ in fields)

    def reference(self, name: str) -> str:
        """The attribute of the enclosing function that this attribute stands for; "" if it has a value of its own."""
        fields = self._fields(name, skip_runs=True)
        return next((text(self.data, value) for number, value in fields if number == 21), "")

    def _fields(self, name: str, *, skip_runs: bool = False) -> Iterator[Field]:
        if name in self.attributes:
            yield from wire_fields(self.data, *self.attributes[name], skip_runs=skip_runs)


@dataclass
class Function:
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    defaults: dict[str, Span] = field(default_factory=dict)  # attributes


@dataclass
class Graph:
    nodes: list[Node] = field(default_factory=list)  # in topological order
    constants: dict[str, Constant] = field(default_factory=dict)
    functions: dict[tuple[str, str], Function] = field(default_factory=dict)  # by domain and name


def read_graph(model: bytes) -> Graph:
    """Raises BundleError if the bytes are no ONNX file. A field that comes twice is merged, as in any parser."""
    graph = Graph()
    for number, value in wire_fields(model, 0, len(model)):
        if number == 7:
            _read_parts(model, span(value), graph)
        elif number == 25:
            _read_function(model, span(value), graph)
    return graph


def _read_parts(data: bytes, where: Span, graph: Graph) -> None:
    for number, value in wire_fields(data, *where):
        if number == 1:
            graph.nodes.append(_read_node(data, span(value)))
        elif number == 5:
            name, constant = read_tensor(data, *span(value))
            graph.constants[name] = constant
        elif number == 15:
            name, constant = _read_sparse(data, span(value))
            graph.constants[name] = constant


def _read_function(data: bytes, where: Span, graph: Graph) -> None:
    function, name, domain = Function(), "", ""
    for number, value in wire_fields(data, *where):
        if number == 1:
            name = text(data, value)
        elif number == 10:
            domain = text(data, value)
        elif number == 4:
            function.inputs.append(text(data, value))
        elif number == 5:
            function.outputs.append(text(data, value))
        elif number == 7:
            function.nodes.append(_read_node(data, span(value)))
        elif number == 11:
            function.defaults[_attribute_name(data, span(value))] = span(value)
    graph.functions[domain, name] = function


def _read_node(data: bytes, where: Span) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    texts = {3: "", 4: "", 7: ""}  # name, operator, domain
    attributes = {}
    for number, value in wire_fields(data, *where):
        if number == 1:
            inputs.append(text(data, value))
        elif number == 2:
            outputs.append(text(data, value))
        elif number == 5:
            attributes[_attribute_name(data, span(value))] = span(value)
        elif number in texts:
            texts[number] = text(data, value)
    domain = "" if texts[7] == "ai.onnx" else texts[7]
    return Node(texts[4], domain, texts[3], tuple(inputs), tuple(outputs), attributes, data)


def _attribute_name(data: bytes, where: Span) -> str:
    return next((text(data, value) for number, value in wire_fields(data, *where, skip_runs=True) if number == 1), "")


def read_tensor(data: bytes, begin: int, end: int) -> tuple[str, Constant]:
    """Name and value of a TensorProto."""
    name, kind = "", 0
    raw: Span | None = None
    fields = list(wire_fields(data, begin, end)) if end - begin <= 16 * MAX_READ_VALUES else None
    for number, value in fields if fields is not None else wire_fields(data, begin, end):
        if number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = text(data, value)
        elif number == 9:
            raw = span(value)
    shape = tuple(_repeated_ints(data, wire_fields(data, begin, end), 1))
    size = int(np.prod(shape, dtype=np.float64))
    if fields is None or size > MAX_READ_VALUES or kind not in _INTEGER_TYPES:
        return name, Constant(shape, None)
    if raw is not None:
        stored = np.frombuffer(data[raw[0] : raw[1]], _INTEGER_TYPES[kind])
        ints = tuple(int(number) for number in stored)
    else:
        ints = tuple(_repeated_ints(data, fields, 7 if kind == 7 else 5))
    return name, Constant(shape, ints if len(ints) == size else None)


def _read_sparse(data: bytes, where: Span) -> tuple[str, Constant]:
    """The name is that of the values; the shape is a field of its own."""
    name = ""
    for number, value in wire_fields(data, *where):
        if number == 1:
            name, _ = read_tensor(data, *span(value))
    return name, Constant(tuple(_repeated_ints(data, wire_fields(data, *where), 3)), None)


def _repeated_ints(data: bytes, fields: Iterable[Field], wanted: int) -> list[int]:
    """The integers of a repeated field, packed or not."""
    ints = []
    for number, value in fields:
        if number != wanted:
            continue
        if isinstance(value, int):
            ints.append(_signed(value))
            continue
        at, end = value
        while at < end:
            each, at = varint(data, at, end)
            ints.append(_signed(each))
    return ints


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
