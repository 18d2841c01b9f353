"""Refuses an ONNX file that refers to anything outside itself, before ONNX Runtime reads it.

ONNX Runtime follows external tensors even in a model that is passed as bytes: it then reads from the process's working
directory. So this module first walks the file, at the level of protobuf's wire format and without the onnx package.
It enters only the messages that can contain a tensor. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common.errors import BundleError
from server.core.onnx_wire import span, text, wire_fields

# Operators that are built into ONNX Runtime. Any other domain needs a library of custom code.
KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

_MODEL, _GRAPH, _NODE, _ATTRIBUTE = "ModelProto", "GraphProto", "NodeProto", "AttributeProto"
_TENSOR, _SPARSE, _FUNCTION, _TRAINING = "TensorProto", "SparseTensorProto", "FunctionProto", "TrainingInfoProto"
_OPSET = "OperatorSetIdProto"
# Message -> field number -> the message that the field holds.
_INSIDE: dict[str, dict[int, str]] = {
    _MODEL: {7: _GRAPH, 8: _OPSET, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _TENSOR: {},
    _OPSET: {},
}
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14  # of TensorProto
_DOMAIN, _VERSION = 1, 2  # of OperatorSetIdProto
_FUNCTION_DOMAIN = 10


@dataclass
class Scan:
    """The operator domains of a file."""

    opsets: dict[str, int] = field(default_factory=dict)  # by domain; "" is ai.onnx
    own_domains: set[str] = field(default_factory=set)  # domains of functions that the file itself defines


def scan_graph(model: bytes) -> Scan:
    """Raises BundleError if the bytes are no ONNX, or refer to anything outside themselves."""
    scan = Scan()
    waiting = [(_MODEL, 0, len(model))]
    while waiting:
        message, begin, end = waiting.pop()
        if message == _TENSOR:
            _require_inside(model, begin, end)
            continue
        if message == _OPSET:
            _note_opset(model, begin, end, scan)
            continue
        inside = _INSIDE[message]
        for number, value in wire_fields(model, begin, end, skip_runs=message == _ATTRIBUTE):
            if number in inside:
                waiting.append((inside[number], *span(value)))
            elif message == _FUNCTION and number == _FUNCTION_DOMAIN:
                scan.own_domains.add(text(model, value))
    foreign = scan.opsets.keys() - KNOWN_DOMAINS - scan.own_domains
    if foreign:
        named = ", ".join(f"{domain[:64]!r}" for domain in sorted(foreign))
        raise BundleError(f"model.onnx uses custom operators (domain {named}); their libraries are never loaded")
    return scan


def _require_inside(data: bytes, begin: int, end: int) -> None:
    name, outside = "", False
    for number, value in wire_fields(data, begin, end):
        if number == _NAME:
            name = text(data, value)
        elif number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
            outside = True
    if outside:
        raise BundleError(f"model.onnx keeps tensor {name[:64]!r} in another file; a bundle must hold all of its data")


def _note_opset(data: bytes, begin: int, end: int, scan: Scan) -> None:
    domain, version = "", 0
    for number, value in wire_fields(data, begin, end):
        if number == _DOMAIN:
            domain = text(data, value)
        elif number == _VERSION and isinstance(value, int):
            version = value
    domain = "" if domain == "ai.onnx" else domain
    scan.opsets[domain] = max(version, scan.opsets.get(domain, 0))
