"""The same rows in each door's own form, and the probabilities read back out of its answers."""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterator, Sequence

from clients.requests import packed_request
from common.schema import CORE_1
from volcast.v1 import PredictResponse

MODEL = "volatility"
_VARINT, _BYTES, _FIXED64, _FIXED32 = 0, 2, 1, 5


def volcast_request(rows: Sequence[Sequence[float]]) -> bytes:
    """volcast.v1.PredictRequest with the rows packed."""
    return packed_request(_packed(rows), len(rows), CORE_1.hash).SerializeToString()


def volcast_answer(raw: bytes) -> list[float]:
    return list(PredictResponse.FromString(raw).probabilities)


def json_request(rows: Sequence[Sequence[float]]) -> bytes:
    return json.dumps({"rows": rows}).encode()


def json_answer(raw: bytes) -> list[float]:
    """The list itself, or an object that holds it under `probabilities`."""
    answer = json.loads(raw)
    return [float(value) for value in (answer["probabilities"] if isinstance(answer, dict) else answer)]


def infer_request(rows: Sequence[Sequence[float]]) -> bytes:
    """inference.ModelInferRequest of the Open Inference Protocol, contents raw, written field by field.

    By hand, so that the benchmark asks the same of each of its servers and none of their client
    packages is needed here.
    """
    shape = _varint(len(rows)) + _varint(len(rows[0]))
    tensor = _field(1, b"features") + _field(2, b"FP64") + _field(3, shape)
    return _field(1, MODEL.encode()) + _field(5, tensor) + _field(7, _packed(rows).tobytes())


def infer_answer(raw: bytes) -> list[float]:
    """Probabilities of inference.ModelInferResponse: raw contents, else the output's fp64 contents."""
    fields = dict(_fields(raw))
    values = fields.get(6)
    if values is None:
        values = dict(_fields(dict(_fields(fields[5]))[5]))[7]
    return [value for (value,) in struct.iter_unpack("<d", values)]


def _packed(rows: Sequence[Sequence[float]]) -> array[float]:
    return array("d", [value for row in rows for value in row])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each length-delimited field; the others are stepped over."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        match tag & 7:
            case 2:
                size, at = _read_varint(message, at)
                yield tag >> 3, message[at : at + size]
                at += size
            case 0:
                _, at = _read_varint(message, at)
            case 1:
                at += 8
            case 5:
                at += 4
            case other:
                raise ValueError(f"not a protobuf message: wire type {other}")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
