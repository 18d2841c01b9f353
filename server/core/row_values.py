"""Tensors in the check of row independence, as far as they are known, and rules that many operators share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from server.core.onnx_graph import Node

ROWS: Final = "rows"  # the size of the batch axis
Dim = int | str | None  # a size, ROWS, or unknown


class RowsMixError(Exception):
    """An operator can mix rows, or the check cannot exclude it. The text is the reason."""


@dataclass(frozen=True)
class Value:
    """A tensor of the graph, as far as it is known.

    If `dims` contains ROWS, the slice of a row along that axis depends on that row only. Otherwise the tensor depends
    on no row at all. `sized`: its values depend on the number of rows.
    """

    dims: tuple[Dim, ...] | None  # None: not even their number is known
    ints: tuple[Dim, ...] | None = None  # the values, if they are integers and known; ROWS: the number of rows
    sized: bool = False

    def __post_init__(self) -> None:
        if self.dims is not None and self.dims.count(ROWS) > 1:
            raise RowsMixError("it combines each row with every row")

    @property
    def rows(self) -> int | None:
        """The batch axis."""
        return self.dims.index(ROWS) if self.dims is not None and ROWS in self.dims else None

    @property
    def rank(self) -> int:
        if self.dims is None:
            raise RowsMixError("the shape of an input is not known")
        return len(self.dims)

    def axis(self, axis: int) -> int:
        """From 0, for an axis that may count from the end."""
        if not -self.rank <= axis < max(self.rank, 1):
            raise RowsMixError(f"axis {axis} does not exist in {self.rank} dimensions")
        return axis % self.rank if self.rank else 0

    def size(self, axis: int) -> Dim:
        return None if self.dims is None else self.dims[axis]

    def reshaped(self, dims: Sequence[Dim]) -> Value:
        return Value(tuple(dims), None, self.sized)


UNKNOWN: Final = Value(None)


def shape_value(ints: Sequence[Dim], dims: tuple[Dim, ...] | None = None) -> Value:
    """A tensor of known integers; one dimension unless `dims` is given."""
    return Value((len(ints),) if dims is None else dims, tuple(ints), ROWS in ints)


def require_const(value: Value | None, what: str) -> None:
    if value is None:
        return
    if value.rows is not None:
        raise RowsMixError(f"{what} depends on rows")
    if value.sized:
        raise RowsMixError(f"{what} depends on the number of rows")


def known_ints(value: Value | None, what: str) -> tuple[int, ...] | None:
    """The integers of an optional constant input; None if it is left out."""
    if value is None:
        return None
    require_const(value, what)
    if value.ints is None or not all(isinstance(each, int) for each in value.ints):
        raise RowsMixError(f"{what} is not known before the graph runs")
    return tuple(each for each in value.ints if isinstance(each, int))


def broadcast(values: Sequence[Value | None]) -> Value:
    """The result of an elementwise operator. Its rows must lie on one axis, counted from the last."""
    present = [value for value in values if value is not None]
    with_rows = [value for value in present if value.rows is not None]
    if with_rows and any(value.sized for value in present):
        raise RowsMixError("the number of rows enters the calculation")
    sized = any(value.sized for value in present)
    if any(value.dims is None for value in present):
        if with_rows:
            raise RowsMixError("the shape of an input is not known")
        return Value(None, None, sized)
    if len({value.rank - (value.rows or 0) for value in with_rows}) > 1:
        raise RowsMixError("it combines each row with every row")
    rank = max((value.rank for value in present), default=0)
    dims = tuple(
        _broadcast_dim([value.size(axis - rank + value.rank) for value in present if axis - rank + value.rank >= 0])
        for axis in range(rank)
    )
    return Value(dims, None, sized)


def _broadcast_dim(sizes: Sequence[Dim]) -> Dim:
    others = [size for size in sizes if size not in (1, ROWS)]
    if ROWS in sizes:
        if others:
            raise RowsMixError(f"it takes a fixed number of rows: {others[0] or 'not known'}")
        return ROWS
    if not others:
        return 1
    return next((size for size in others if isinstance(size, int)), None)


def along(value: Value, axis: int, dim: Dim = None) -> Value:
    """The result of an operator that works along one axis, which must not be the batch axis."""
    axis = value.axis(axis)
    if value.rows == axis:
        raise RowsMixError(f"it works along the rows (axis {axis})")
    dims = list(value.dims or ())
    dims[axis] = dim
    return value.reshaped(dims)


def matmul(left: Value, right: Value) -> Value:
    """Matrix product: rows may lie on an axis that is not summed over."""
    if left.dims is None or right.dims is None:
        if left.rows is None and right.rows is None:
            return UNKNOWN
        raise RowsMixError("the shape of an input is not known")
    if left.sized or right.sized:
        raise RowsMixError("the number of rows enters the calculation")
    if left.rank == 0 or right.rank == 0:
        raise RowsMixError("it takes no scalars")
    left_dims = left.dims if left.rank > 1 else (1, *left.dims)
    right_dims = right.dims if right.rank > 1 else (*right.dims, 1)
    if left_dims[-1] == ROWS or right_dims[-2] == ROWS:
        raise RowsMixError("it sums over the rows")
    batch = broadcast([Value(left_dims[:-2]), Value(right_dims[:-2])])
    product = [*(batch.dims or ()), left_dims[-2], right_dims[-1]]
    if product.count(ROWS) > 1:
        raise RowsMixError("it combines each row with every row")
    if left.rank == 1:
        del product[-2]
    if right.rank == 1:
        del product[-1]
    return Value(tuple(product))


def reshape(value: Value, shape: Sequence[Dim], *, keep_zero: bool = False) -> Value:
    """A reshape, which must leave each row's values together and in their place."""
    if value.rows is None and not value.sized and ROWS not in shape:
        return Value(tuple(None if size in (-1, 0) else size for size in shape), value.ints)
    if value.sized:
        return Value(tuple(None if size in (-1, 0) else size for size in shape), value.ints, True)
    dims = value.dims or ()
    sizes: list[Dim] = [
        dims[at] if size == 0 and not keep_zero and at < len(dims) else size for at, size in enumerate(shape)
    ]
    rows = value.rows
    if rows is None:
        raise RowsMixError("a constant takes the number of rows as its shape")
    before, inner = _product(dims[:rows]), _product(dims[rows + 1 :])
    if before != 1:
        raise RowsMixError("it moves values between rows: the rows are not the first axis")
    at = next((at for at, size in enumerate(sizes) if size != 1), None)
    if at is None or sizes[at] not in (ROWS, -1):
        raise RowsMixError(f"it fixes the number of rows: the new shape is {_text(sizes)}")
    rest = sizes[at + 1 :]
    if sizes[at] == -1:
        if inner is None or _product(rest) != inner:
            raise RowsMixError(f"it regroups the rows: {_text(dims)} becomes {_text(sizes)}")
    elif -1 in rest:
        known = _product([size for size in rest if size != -1])
        size = inner // known if inner is not None and known else None
        rest = [size if each == -1 else each for each in rest]
    elif inner is not None and _product(rest) not in (inner, None):
        raise RowsMixError(f"it regroups the rows: {_text(dims)} becomes {_text(sizes)}")
    return Value((*sizes[:at], ROWS, *rest))


def _product(sizes: Sequence[Dim]) -> int | None:
    product = 1
    for size in sizes:
        if not isinstance(size, int) or size < 0:
            return None
        product *= size
    return product


def _text(sizes: Sequence[Dim]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in sizes) + "]"


@dataclass(frozen=True)
class Call:
    """A node and the known values of its inputs; an omitted input is None."""

    node: Node
    inputs: Sequence[Value | None]
    opset: int  # of ai.onnx

    @property
    def first(self) -> Value:
        return self.input(0)

    def input(self, index: int) -> Value:
        value = self.optional(index)
        if value is None:
            raise RowsMixError(f"input {index} is missing")
        return value

    def optional(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def axes(self) -> tuple[int, ...] | None:
        """The axes, an attribute or the second input; None if none are given."""
        axes = self.node.integers("axes")
        return axes if axes is not None else known_ints(self.optional(1), "the input `axes`")

    def require_const_from(self, index: int) -> None:
        for at, value in enumerate(self.inputs[index:], index):
            require_const(value, f"input {at}")


Rule = Callable[[Call], Sequence[Value]]
