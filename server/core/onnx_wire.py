"""The part of protobuf's wire format that reading an ONNX file needs.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from common.errors import BundleError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# A run of numbers and short strings in an attribute is skipped with one match: tree models have hundreds of thousands
# of them. A thousand at a time, since a match holds the interpreter's lock.
_SHORT = b"|".join(b"\\x%02x.{%d}" % (length, length) for length in range(16))
_PLAIN = re.compile(
    rb"(?:[\x15\x1d\x25\x2d\x35\x3d].{4}|[\x10\x18\x20\x28\x30\x38\x40][\x80-\xff]{0,9}[\x00-\x7f]"
    rb"|\x4a(?:" + _SHORT + rb")){1,1000}+",
    re.DOTALL,
)
Field = tuple[int, int | tuple[int, int]]  # its number; its value, or begin and end of its bytes


def wire_fields(data: bytes, at: int, end: int, *, skip_runs: bool = False) -> Iterator[Field]:
    """Each field between `at` and `end`. skip_runs: fields of an attribute that hold no message are skipped."""
    while at < end:
        if skip_runs and (run := _PLAIN.match(data, at, end)):
            at = run.end()
            continue
        tag, at = varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise damaged()
        if kind == _VARINT:
            value, at = varint(data, at, end)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = varint(data, at, end)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise damaged()  # groups: ONNX has none
        if length > end - at:
            raise damaged()
        yield number, (at, at + length)
        at += length


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise damaged()


def span(value: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(value, int):
        raise damaged()
    return value


def text(data: bytes, value: int | tuple[int, int]) -> str:
    begin, end = span(value)
    return data[begin:end].decode("utf-8", "backslashreplace")


def damaged() -> BundleError:
    return BundleError("model.onnx is no ONNX file")
