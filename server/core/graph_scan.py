"""What an ONNX file refers to, read without the onnx package and before ONNX Runtime sees it.

ONNX Runtime follows external tensors even of a model that is handed over as bytes: it then reads from
the process's working directory. So a graph is walked first, at the level of protobuf's wire format
(https://protobuf.dev/programming-guides/encoding/): only the messages that can hold a tensor are entered,
everything else is stepped over. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from common.errors import BundleError

# Operators that ONNX Runtime has built in. Any other domain needs a library of somebody's own code.
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
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# A run of numbers and short strings in an attribute, stepped over at once: trees hold hundreds of thousands
# of them. A thousand at a time, as a match holds the interpreter's lock.
_SHORT = b"|".join(b"\\x%02x.{%d}" % (length, length) for length in range(16))
_PLAIN = re.compile(
    rb"(?:[\x15\x1d\x25\x2d\x35\x3d].{4}|[\x10\x18\x20\x28\x30\x38\x40][\x80-\xff]{0,9}[\x00-\x7f]"
    rb"|\x4a(?:" + _SHORT + rb")){1,1000}+",
    re.DOTALL,
)
_Field = tuple[int, int | tuple[int, int]]  # number; a value, or where its bytes begin and end


@dataclass
class Scan:
    """Opsets by domain, as the graph declares them."""

    opsets: dict[str, int] = field(default_factory=dict)
    own_domains: set[str] = field(default_factory=set)  # of functions that the file itself defines


def scan_graph(model: bytes) -> Scan:
    """Raises BundleError where the bytes are no ONNX, or refer to anything outside themselves."""
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
        for number, value in _fields(model, begin, end, runs=message == _ATTRIBUTE):
            if number in inside:
                waiting.append((inside[number], *_span(value)))
            elif message == _FUNCTION and number == _FUNCTION_DOMAIN:
                scan.own_domains.add(_text(model, value))
    foreign = scan.opsets.keys() - KNOWN_DOMAINS - scan.own_domains
    if foreign:
        named = ", ".join(f"{one[:64]!a}" for one in sorted(foreign))
        raise BundleError(f"model.onnx uses custom operators (domain {named}); their libraries are never loaded")
    return scan


def _require_inside(data: bytes, begin: int, end: int) -> None:
    name, outside = "", False
    for number, value in _fields(data, begin, end):
        if number == _NAME:
            name = _text(data, value)
        elif number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
            outside = True
    if outside:
        raise BundleError(f"model.onnx keeps tensor {name[:64]!a} in another file; a bundle must hold all of its data")


def _note_opset(data: bytes, begin: int, end: int, scan: Scan) -> None:
    domain, version = "", 0
    for number, value in _fields(data, begin, end):
        if number == _DOMAIN:
            domain = _text(data, value)
        elif number == _VERSION and isinstance(value, int):
            version = value
    domain = "" if domain == "ai.onnx" else domain
    scan.opsets[domain] = max(version, scan.opsets.get(domain, 0))


def _fields(data: bytes, at: int, end: int, *, runs: bool = False) -> Iterator[_Field]:
    """Each field between `at` and `end`. runs: those of an attribute that hold no message are stepped over."""
    while at < end:
        if runs and (run := _PLAIN.match(data, at, end)):
            at = run.end()
            continue
        tag, at = _varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise _damaged()
        if kind == _VARINT:
            value, at = _varint(data, at, end)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at, end)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise _damaged()  # groups: ONNX has none
        if length > end - at:
            raise _damaged()
        yield number, (at, at + length)
        at += length


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise _damaged()


def _span(value: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(value, int):
        raise _damaged()
    return value


def _text(data: bytes, value: int | tuple[int, int]) -> str:
    begin, end = _span(value)
    return data[begin:end].decode("utf-8", "backslashreplace")


def _damaged() -> BundleError:
    return BundleError("model.onnx is no ONNX file")
