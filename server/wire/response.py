"""Builds the bytes of successful PredictResponse and StreamPredictResponse messages for the fast path.

A response has three parts: `before` (model, version, threshold, and the length of the probabilities), the
probabilities as little-endian doubles, and `after` (the times). All responses of one run share `before` and `after`.
The slow path builds the same messages with protobuf (server.rpc.convert); tests/server/wire/test_response.py compares
both for every field of the contract.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from common.http2.frames import MESSAGE
from server.core.dataplane import Result
from server.core.models import Repository
from server.core.snapshot import Model, ModelSnapshot
from server.http2.blocks import Bytes, fill_template

# Tags of PredictResponse: field number and wire type (Protocol Buffers, Encoding).
_MODEL_NAME, _MODEL_VERSION, _THRESHOLD, _PROBABILITIES = b"\x0a", b"\x12", b"\x19", b"\x22"
_QUEUE_NS, _COMPUTE_NS = b"\x28", b"\x30"
_RESPONSE = b"\x12"  # of StreamPredictResponse, behind its frame_id
DOUBLE = struct.Struct("<d")


def varint(number: int) -> bytes:
    """A protobuf varint (Protocol Buffers, Encoding) of a number that is not negative."""
    if number < 1 << 7:
        return bytes((number,))
    if number < 1 << 14:  # most durations in ns need this branch or the next: half the cost of the loop
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number < 1 << 21:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    out = bytearray()
    while number >= 128:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def model_fields(model: Model) -> bytes:
    """The fields that every response of a model has: its name, version and threshold."""
    name, version = model.name.encode(), model.version.encode()
    text = _MODEL_NAME + varint(len(name)) + name + _MODEL_VERSION + varint(len(version)) + version
    return text + _THRESHOLD + DOUBLE.pack(model.threshold)


def before_values(fields: bytes, rows: int) -> bytes:
    """The bytes of a response before its probabilities. fields: `model_fields` of the answering model."""
    return fields + _PROBABILITIES + varint(8 * rows)


def after_values(queue_ns: int, compute_ns: int) -> bytes:
    """The bytes of a response behind its probabilities."""
    return _QUEUE_NS + varint(max(0, queue_ns)) + _COMPUTE_NS + varint(max(0, compute_ns))


def values_of(result: Result) -> bytes:
    """All probabilities of a result in the encoding of responses."""
    return result.probabilities.astype("<f8", copy=False).tobytes()


def value_rows(result: Result, rows: int) -> Bytes:
    """The bytes of `values_of` as an array (responses, 8 x rows)."""
    return np.ascontiguousarray(result.probabilities, "<f8").view(np.uint8).reshape(-1, 8 * rows)


def stream_message(frame_id: bytes, response: bytes) -> bytes:
    """One StreamPredictResponse with its gRPC prefix. frame_id: the bytes of this field in the request."""
    field = _RESPONSE + varint(len(response))
    return MESSAGE.pack(0, len(frame_id) + len(field) + len(response)) + frame_id + field + response


def stream_messages(frame_ids: Sequence[bytes], before: bytes, values: bytes, after: bytes) -> bytes:
    """A message for each frame id, each with an equal part of `values`."""
    size = len(values) // len(frame_ids)
    length = len(before) + size + len(after)
    field = _RESPONSE + varint(length)
    head, length = field + before, len(field) + length
    prefixes: dict[int, bytes] = {}  # by the length of the frame id
    parts: list[bytes] = []
    at = 0
    for frame_id in frame_ids:
        id_size = len(frame_id)
        prefix = prefixes.get(id_size)
        if prefix is None:
            prefix = prefixes[id_size] = MESSAGE.pack(0, id_size + length)
        parts += (prefix, frame_id, head, values[at : at + size], after)
        at += size
    return b"".join(parts)


def stream_message_rows(frame_ids: Bytes, before: bytes, values: Bytes, after: bytes) -> bytes:
    """As `stream_messages`, for frame ids of one length. frame_ids: (frames, length); values: (frames, 8 x rows)."""
    count, id_size = frame_ids.shape
    size = values.shape[1]
    length = len(before) + size + len(after)
    field = _RESPONSE + varint(length)
    prefix = MESSAGE.pack(0, id_size + len(field) + length)
    values_at = len(prefix) + id_size + len(field) + len(before)
    template = prefix + bytes(id_size) + field + before + bytes(size) + after
    return fill_template(template, count, (len(prefix), frame_ids), (values_at, values))


class ModelFields:
    """Caches `model_fields` of the models in the current snapshot."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._snapshot: ModelSnapshot | None = None
        self._fields: dict[Model, bytes] = {}

    def of(self, model: Model) -> bytes:
        snapshot = self._repository.snapshot
        if snapshot is not self._snapshot:  # otherwise replaced models stay in memory
            self._fields.clear()
            self._snapshot = snapshot
        fields = self._fields.get(model)
        if fields is None:
            fields = self._fields[model] = model_fields(model)
        return fields
