"""Builds the bytes of successful PredictResponse and StreamPredictResponse messages for the fast path.

A response has three parts: `before` (model, version, threshold, and the length of the probabilities), the
probabilities as little-endian doubles, and `after` (the times). All responses of one run share `before` and `after`.
A forecast follows `after` and differs between responses: then the part after `before` is built for each response. The
slow path builds the same messages with protobuf (server.rpc.convert); tests/server/wire/test_response.py compares
both for every field of the contract.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from common.http2.frames import MESSAGE
from server.core.arrays import Matrix, Vector
from server.core.dataplane import ForecastResult, Result
from server.core.models import Repository
from server.core.snapshot import Model, ModelSnapshot
from server.http2.blocks import Bytes, fill_template

# Tags of PredictResponse: field number and wire type (Protocol Buffers, Encoding).
_MODEL_NAME, _MODEL_VERSION, _THRESHOLD, _PROBABILITIES = b"\x0a", b"\x12", b"\x19", b"\x22"
_QUEUE_NS, _COMPUTE_NS = b"\x28", b"\x30"
_SPIKE_BPS, _MEDIAN_BPS, _QUANTILE_BPS, _BASE_RATE = b"\x39", b"\x42", b"\x4a", b"\x51"
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


def forecast_fields(spike_bps: float, medians: bytes, quantiles: bytes, base_rate: float) -> bytes:
    """The fields of a forecast, which end a response. medians, quantiles: little-endian doubles. Zeros are left out."""
    size = _SPIKE_BPS + DOUBLE.pack(spike_bps) if spike_bps else b""
    levels = _QUANTILE_BPS + varint(len(quantiles)) + quantiles if quantiles else b""
    base = _BASE_RATE + DOUBLE.pack(base_rate) if base_rate else b""
    return size + _MEDIAN_BPS + varint(len(medians)) + medians + levels + base


def bodies(result: Result, rows: Sequence[int]) -> list[bytes]:
    """The bytes after `before` of each response. rows: of each response."""
    after = after_values(result.queue_ns, result.compute_ns)
    values, forecast = values_of(result), result.forecast
    ends = list(accumulate(rows))
    parts = [slice(end - count, end) for end, count in zip(ends, rows, strict=True)]
    if forecast is None:
        return [values[8 * part.start : 8 * part.stop] + after for part in parts]
    return [values[8 * part.start : 8 * part.stop] + after + _fields_of(forecast, part) for part in parts]


def _fields_of(forecast: ForecastResult, rows: slice) -> bytes:
    size = forecast.spike_bps
    if not size and rows.stop - rows.start == 1:
        size = float(forecast.sizes_bps[rows.start])
    medians, quantiles = forecast.median_bps[rows].tobytes(), forecast.quantile_bps[rows].tobytes()
    return forecast_fields(size, medians, quantiles, forecast.base_rate)


def body_rows(result: Result, rows: int) -> tuple[Bytes, bytes]:
    """The bytes after `before` of responses of `rows` rows each: an array (responses, n), and bytes that all share.

    If the rows of a forecast have different sizes, there must be a single response, or a response for each row.
    """
    after = after_values(result.queue_ns, result.compute_ns)
    values, forecast = value_rows(result, rows), result.forecast
    if forecast is None:
        return values, after
    medians, quantiles = _byte_rows(forecast.median_bps, rows), _byte_rows(forecast.quantile_bps, rows)
    sizes = None if forecast.spike_bps or rows > 1 else _byte_rows(forecast.sizes_bps, 1)
    size = 1.0 if sizes is not None else forecast.spike_bps
    head = bytes(8 * rows) + after
    template = head + forecast_fields(size, bytes(8 * rows), bytes(quantiles.shape[1]), forecast.base_rate)
    base = 9 if forecast.base_rate else 0
    quantiles_at = len(template) - base - quantiles.shape[1]
    gap = len(_QUANTILE_BPS + varint(quantiles.shape[1])) if quantiles.shape[1] else 0
    columns = [(0, values), (quantiles_at, quantiles), (quantiles_at - gap - 8 * rows, medians)]
    if sizes is not None:
        columns.append((len(head) + len(_SPIKE_BPS), sizes))
    filled = fill_template(template, len(values), *columns)
    return np.frombuffer(filled, np.uint8).reshape(len(values), -1), b""


def body_bytes(result: Result, rows: int) -> tuple[bytes, bytes]:
    """As `body_rows`, with the array as bytes."""
    if result.forecast is None:
        return values_of(result), after_values(result.queue_ns, result.compute_ns)
    values, after = body_rows(result, rows)
    return values.tobytes(), after


def _byte_rows(values: Vector | Matrix, rows: int) -> Bytes:
    """The bytes of values (responses x rows, ...) as an array (responses, n)."""
    contiguous = np.ascontiguousarray(values, "<f8")
    return contiguous.view(np.uint8).reshape(len(values) // rows, 8 * rows * (contiguous[:1].size))


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
