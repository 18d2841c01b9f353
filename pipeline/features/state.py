"""The state of one product as bytes: what a restart needs to go on with the same bits.

    header   `<HII` format version, ticks kept, length of the name; then the name of the schema and its hash
    arrays   little-endian, in the order of Kernel: those of the product, then each ring from its oldest kept tick

Tick numbers count from the oldest kept tick, and the place of the rings is left out, so the bytes do not depend
on the size of the rings or on how long the history is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.schema import FeatureSchema
from pipeline.features.kernels import COUNT, MASK, OFFSET, Kernel

FORMAT_VERSION = 1
_HEADER = struct.Struct("<HII")


@dataclass(frozen=True, slots=True)
class ProductState:
    """Arrays of one product, tick numbers counted from the oldest kept tick."""

    of_product: list[NDArray[Any]]  # the cursors first; OFFSET and MASK are 0
    of_ticks: list[NDArray[Any]]  # (ticks kept,) each; of the queue, its members and zeros after them

    @property
    def ticks(self) -> int:
        return int(self.of_product[0][COUNT])


def taken(kernel: Kernel, of_product: Sequence[NDArray[Any]], rings: Sequence[NDArray[Any]]) -> ProductState:
    """Copies a product's state: of_product without the product's axis, each ring (capacity,) of the product."""
    cursors = of_product[0].copy()
    mask, oldest = int(cursors[MASK]), int(cursors[kernel.oldest])
    kept = (oldest + np.arange(int(cursors[COUNT]) - oldest)) & mask
    of_ticks = [ring[kept] for ring in rings]
    if kernel.queue:
        head, tail = (int(cursors[column]) for column in kernel.queue)
        members = rings[-1][(head + np.arange(tail - head)) & mask] - oldest
        of_ticks[-1] = np.zeros_like(of_ticks[-1])
        of_ticks[-1][: len(members)] = members
        cursors[list(kernel.queue)] = 0, len(members)
    cursors[list(kernel.tick_numbers)] -= oldest
    cursors[[OFFSET, MASK]] = 0
    return ProductState([cursors, *(array.copy() for array in of_product[1:])], of_ticks)


def encoded(state: ProductState, schema: FeatureSchema) -> bytes:
    name = f"{schema.name} {schema.hash}".encode()
    arrays = (*state.of_product, *state.of_ticks)
    return b"".join([_HEADER.pack(FORMAT_VERSION, state.ticks, len(name)), name, *map(_little_endian, arrays)])


def decoded(data: bytes, kernel: Kernel, schema: FeatureSchema) -> ProductState:
    """Raises ValueError for another format version or schema, and for a length that does not fit."""
    if len(data) < _HEADER.size:
        raise ValueError(f"state of {len(data)} bytes: expected at least {_HEADER.size}")
    version, ticks, name_bytes = _HEADER.unpack_from(data)
    if version != FORMAT_VERSION:
        raise ValueError(f"state of format version {version}: expected {FORMAT_VERSION}")
    position = _HEADER.size + name_bytes
    name, expected = data[_HEADER.size : position], f"{schema.name} {schema.hash}"
    if name != expected.encode():
        raise ValueError(f"state of schema {name.decode(errors='replace')!r}: expected {expected!r}")
    shapes = [*kernel.of_product, *(((ticks,), dtype) for dtype in kernel.of_tick)]
    sizes = [int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes]
    if len(data) != position + sum(sizes):
        raise ValueError(f"state of {len(data)} bytes: expected {position + sum(sizes)}")
    arrays = []
    for (shape, dtype), size in zip(shapes, sizes, strict=True):
        little = np.dtype(dtype).newbyteorder("<")
        arrays.append(np.frombuffer(data, little, size // little.itemsize, position).astype(dtype).reshape(shape))
        position += size
    state = ProductState(arrays[: len(kernel.of_product)], arrays[len(kernel.of_product) :])
    if state.ticks != ticks:
        raise ValueError(f"state of {state.ticks} ticks: expected {ticks}")
    return state


def _little_endian(array: NDArray[Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
