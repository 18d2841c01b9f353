"""Batches of FeatureRow and Prediction records, encoded as arrays.

A protobuf message is its fields one after the other, each behind a tag. Where every field of a batch
has the same length, which sfixed64 times and one product's name give, the records of the batch form
one structured array: constants once, one assignment a column, and each record is a slice of the bytes.
Against building messages one by one: benchmarks/worker.py. Any protobuf reader reads the result; the
tests parse it with the generated code.

Source: protobuf encoding specification, "Message Structure" (wire types 0 VARINT, 1 I64, 2 LEN).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volcast.v1 import FeatureRow, Prediction

VARINT, I64, LEN = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Layout:
    """A record type of fixed length: a template, and where its columns stand in it."""

    dtype: np.dtype[Any]
    template: NDArray[np.uint8]  # (bytes of a record,)

    def encode(self, rows: int, **columns: Any) -> list[bytes]:
        """One message a row; each column has shape (rows,), (rows, width), or is one value for all."""
        data = np.tile(self.template, rows)
        records = data.view(self.dtype)
        for name, values in columns.items():
            records[name] = values
        encoded = data.tobytes()
        size = self.template.size
        return [encoded[start : start + size] for start in range(0, len(encoded), size)]


class _Builder:
    """Collects fields of a message in the order of their numbers."""

    def __init__(self, message: Any) -> None:
        self._fields = message.DESCRIPTOR.fields_by_name
        self._bytes = bytearray()
        self._columns: list[tuple[str, Any, int]] = []

    def constant(self, name: str, value: str) -> None:
        encoded = value.encode()
        if encoded:  # proto3 leaves out what is empty
            self._bytes += self._tag(name, LEN) + _varint(len(encoded)) + encoded

    def constant_doubles(self, name: str, values: tuple[float, ...]) -> None:
        if values:
            encoded = struct.pack(f"<{len(values)}d", *values)
            self._bytes += self._tag(name, LEN) + _varint(len(encoded)) + encoded

    def fixed64(self, name: str, dtype: str) -> None:
        self._bytes += self._tag(name, I64)
        self._column(name, dtype, 8)

    def doubles(self, name: str, width: int) -> None:
        self._bytes += self._tag(name, LEN) + _varint(8 * width)
        self._column(name, ("<f8", (width,)), 8 * width)

    def boolean(self, name: str) -> None:
        self._bytes += self._tag(name, VARINT)
        self._column(name, "u1", 1)

    def layout(self) -> Layout:
        dtype = np.dtype(
            {
                "names": [name for name, _, _ in self._columns],
                "formats": [form for _, form, _ in self._columns],
                "offsets": [offset for _, _, offset in self._columns],
                "itemsize": len(self._bytes),
            }
        )
        return Layout(dtype, np.frombuffer(bytes(self._bytes), np.uint8))

    def _tag(self, name: str, wire_type: int) -> bytes:
        return _varint(self._fields[name].number << 3 | wire_type)

    def _column(self, name: str, form: Any, size: int) -> None:
        self._columns.append((name, form, len(self._bytes)))
        self._bytes += bytes(size)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@lru_cache(maxsize=1024)
def feature_rows(venue: str, product_id: str, schema_hash: str, width: int) -> Layout:
    """FeatureRow of one product. Columns: event_time_ns, ingest_time_ns, sequence_num, values (rows, width), warm,
    source_partition, source_offset, bid, ask, imbalance."""
    fields = _Builder(FeatureRow)
    fields.constant("product_id", product_id)
    fields.fixed64("event_time_ns", "<i8")
    fields.fixed64("ingest_time_ns", "<i8")
    fields.fixed64("sequence_num", "<i8")
    fields.constant("schema_hash", schema_hash)
    fields.doubles("values", width)
    fields.boolean("warm")
    _source_and_quote(fields, venue)
    return fields.layout()


@lru_cache(maxsize=1024)
def predictions(
    venue: str, product_id: str, model_name: str, model_version: str, levels: tuple[float, ...] | None = None
) -> Layout:
    """Prediction of one product and model. Columns: event_time_ns, sequence_num, probability, threshold, latency_ns,
    source_partition, source_offset, bid, ask, imbalance.

    levels: of the quantiles; None: the model forecasts no distribution. If it does, further columns are spike_bps,
    median_bps, base_rate and, if there are levels, quantile_bps (rows, levels).
    """
    fields = _Builder(Prediction)
    fields.constant("product_id", product_id)
    fields.fixed64("event_time_ns", "<i8")
    fields.fixed64("sequence_num", "<i8")
    fields.constant("model_name", model_name)
    fields.constant("model_version", model_version)
    fields.fixed64("probability", "<f8")
    fields.fixed64("threshold", "<f8")
    fields.fixed64("latency_ns", "<i8")
    _source_and_quote(fields, venue)
    if levels is not None:
        fields.fixed64("spike_bps", "<f8")
        fields.fixed64("median_bps", "<f8")
        fields.constant_doubles("quantile_levels", levels)
        if levels:
            fields.doubles("quantile_bps", len(levels))
        fields.fixed64("base_rate", "<f8")
    return fields.layout()


def _source_and_quote(fields: _Builder, venue: str) -> None:
    """The fields from source_partition to imbalance, which both messages have in this order."""
    fields.fixed64("source_partition", "<i8")
    fields.fixed64("source_offset", "<i8")
    fields.constant("venue", venue)
    fields.fixed64("bid", "<f8")
    fields.fixed64("ask", "<f8")
    fields.fixed64("imbalance", "<f8")
