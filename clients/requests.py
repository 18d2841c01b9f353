"""Rows of a caller as messages of the contract, for both clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from volcast.v1 import DATA_TYPE_FLOAT64, ModelSelector, NamedRow, NamedRows, PackedRows, PredictRequest

if TYPE_CHECKING:
    from typing import Protocol

    from typing_extensions import Buffer

    class ArrayMemory(Protocol):
        """An array of numpy, whose types declare the buffer protocol from Python 3.12 on only."""

        @property
        def data(self) -> memoryview: ...

    PackedValues = Buffer | ArrayMemory

METHOD_PREFIX = "/volcast.v1.InferenceService/"


def named_request(
    rows: Sequence[Mapping[str, float]], model: ModelSelector | None = None, routing_key: str = ""
) -> PredictRequest:
    """A request with rows as feature name to value.

    >>> named_request([{"price": 65000.0}]).named.rows[0].features["price"]
    65000.0
    """
    named = NamedRows(rows=[NamedRow(features=row) for row in rows])
    return PredictRequest(model=model, named=named, routing_key=routing_key)


def packed_request(
    values: PackedValues, row_count: int, schema_hash: str, model: ModelSelector | None = None, routing_key: str = ""
) -> PredictRequest:
    """A request with packed rows.

    values: a buffer of little-endian float64, row-major, shape (row_count, features of the schema).

    >>> from array import array
    >>> len(packed_request(array("d", range(22)), 2, "6f2d41a0c1b9").packed.values)
    176
    """
    request = PredictRequest(model=model, routing_key=routing_key)
    fill_packed(request.packed, values, row_count, schema_hash)
    return request


def fill_packed(packed: PackedRows, values: PackedValues, row_count: int, schema_hash: str) -> None:
    """Sets the fields in place, since assigning a finished message into another copies it."""
    packed.schema_hash = schema_hash
    packed.data_type = DATA_TYPE_FLOAT64
    packed.row_count = row_count
    packed.values = bytes(values)  # type: ignore[arg-type]  # every ArrayMemory is a buffer
