"""Rows as they come in, checked and turned into a float64 matrix.

A request that is right takes one comparison of everything that can be compared; only a wrong one is
looked at field by field. What is quoted from a request is cut short: it ends up in HTTP/2 trailers,
which have room for 8 KiB.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.errors import FieldViolation, RequestError, SchemaMismatchError
from common.schema import FeatureSchema
from server.core.requests import Matrix, NamedInput, PackedInput

if TYPE_CHECKING:
    from server.core.tensors import TensorInput

# The numbers of volcast.v1.DataType.
DTYPES: dict[int, np.dtype[np.floating[Any]]] = {1: np.dtype("<f4"), 2: np.dtype("<f8")}
FLOAT64 = np.dtype(np.float64)
MAX_VIOLATIONS = 16
_MAX_QUOTED = 40
_FEW = 64


def to_matrix(rows: PackedInput | NamedInput | TensorInput | None, schema: FeatureSchema, max_rows: int) -> Matrix:
    """The matrix (rows, features of `schema`) of one request.

    Raises SchemaMismatchError for rows packed for another schema, RequestError for every other fault.
    """
    if isinstance(rows, PackedInput):
        return packed_matrix(rows, schema, max_rows)
    if isinstance(rows, NamedInput):
        return named_matrix(rows, schema, max_rows)
    if rows is not None:
        return rows.to_matrix(schema, max_rows)
    raise RequestError.of("rows", "expected `named` or `packed` rows, got none")


def packed_matrix(rows: PackedInput, schema: FeatureSchema, max_rows: int) -> Matrix:
    """A view of the request's bytes where they are float64, else a conversion of them."""
    dtype = DTYPES.get(rows.data_type)
    count, width = rows.row_count, len(schema)
    if (
        rows.schema_hash != schema.hash
        or dtype is None
        or not 0 < count <= max_rows
        or len(rows.values) != count * width * dtype.itemsize
        or (rows.event_times and rows.event_times != count)
        or (rows.product_ids and rows.product_ids != count)
    ):
        raise _packed_faults(rows, schema, max_rows)
    flat = np.frombuffer(rows.values, dtype)
    if not all_finite(flat):
        row, column = divmod(int(np.argmin(np.isfinite(flat))), width)
        what = f"row {row}, feature {schema.names[column]}: expected a finite number, got {flat[row * width + column]}"
        raise RequestError.of("packed.values", what)
    # float32 widens exactly (checked first, since NumPy warns of a signalling NaN); asarray leaves
    # little-endian float64 as it lies in the message.
    return np.asarray(flat, FLOAT64).reshape(count, width)


def all_finite(flat: NDArray[np.floating[Any]]) -> bool:
    """Whether every value is finite.

    A sum is finite only where each value is. Of few values, Python's measured 0.8 us with cold caches
    where isfinite().all() took 2.4 us; only where it overflows is every value looked at.
    """
    return (flat.size <= _FEW and isfinite(sum(flat.tolist()))) or bool(np.isfinite(flat).all())


def _packed_faults(rows: PackedInput, schema: FeatureSchema, max_rows: int) -> RequestError:
    dtype, count, width = DTYPES.get(rows.data_type), rows.row_count, len(schema)
    if rows.schema_hash and rows.schema_hash != schema.hash:
        return SchemaMismatchError(_cut(rows.schema_hash), schema.hash)
    faults = []
    if not rows.schema_hash:
        faults.append(("schema_hash", f"expected {schema.hash} (schema {schema.name}), got none"))
    if dtype is None:
        expected = "DATA_TYPE_FLOAT32 (1) or DATA_TYPE_FLOAT64 (2)"
        faults.append(("data_type", f"expected {expected}, got {rows.data_type}"))
    if not 0 < count <= max_rows:
        faults.append(("row_count", f"expected 1 to {max_rows}, got {count}"))
    elif dtype is not None and len(rows.values) != count * width * dtype.itemsize:
        shape = f"{count} rows x {width} features x {dtype.itemsize}"
        expected = f"{count * width * dtype.itemsize} bytes ({shape})"
        faults.append(("values", f"expected {expected}, got {len(rows.values)}"))
    for field, length in (("event_times_ns", rows.event_times), ("product_ids", rows.product_ids)):
        if length and length != count:
            faults.append((field, f"expected none or one a row ({count}), got {length}"))
    return RequestError([FieldViolation(f"packed.{field}", text) for field, text in faults])


def named_matrix(rows: NamedInput, schema: FeatureSchema, max_rows: int) -> Matrix:
    count = len(rows.rows)
    if not 0 < count <= max_rows:
        raise RequestError.of("named.rows", f"expected 1 to {max_rows} rows, got {count}")
    names, known = schema.names, frozenset(schema.names)
    if all(row.keys() == known for row in rows.rows):
        matrix = np.array([[row[name] for name in names] for row in rows.rows], FLOAT64)
        if all_finite(matrix.reshape(-1)):
            return matrix
    raise _named_faults(rows, schema)


def _named_faults(rows: NamedInput, schema: FeatureSchema) -> RequestError:
    faults: list[FieldViolation] = []
    for index, row in enumerate(rows.rows):
        for name in schema.names:
            if name not in row:
                faults.append(_fault(index, name, "missing"))
            elif not np.isfinite(row[name]):
                faults.append(_fault(index, name, f"expected a finite number, got {row[name]}"))
        unknown = sorted(row.keys() - set(schema.names))
        faults += [_fault(index, name, f"no feature of schema {schema.name}") for name in unknown]
        if len(faults) > MAX_VIOLATIONS:
            break
    if len(faults) > MAX_VIOLATIONS:
        faults = [*faults[:MAX_VIOLATIONS], FieldViolation("named.rows", "more fields are at fault")]
    return RequestError(faults)


def _fault(row: int, name: str, text: str) -> FieldViolation:
    return FieldViolation(f"named.rows[{row}].features[{_cut(name)}]", text)


def _cut(text: str) -> str:
    """Text of the caller's, short and in plain ASCII."""
    short = text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "..."
    return short.encode("ascii", "backslashreplace").decode()
