"""Rules for operators that change the shape of a tensor or choose parts of it. See row_rules.py."""

from __future__ import annotations

from collections.abc import Sequence

from server.core.row_values import (
    ROWS,
    UNKNOWN,
    Call,
    Dim,
    RowsMixError,
    Rule,
    Value,
    along,
    broadcast,
    known_ints,
    reshape,
    shape_value,
)

WHOLE_AXIS = 2**31 - 1  # an end of a slice from here on means the end of the axis


def _shape(call: Call) -> Sequence[Value]:
    if call.first.dims is None:
        return [UNKNOWN]
    start, end = call.node.integer("start", 0), call.node.integer("end", WHOLE_AXIS)
    return [shape_value(call.first.dims[start:end])]


def _size(call: Call) -> Sequence[Value]:
    return [Value((), None, call.first.rows is not None or call.first.sized)]


def _reshape(call: Call) -> Sequence[Value]:
    shape = call.optional(1)
    ints = shape.ints if shape is not None else call.node.integers("shape")
    if ints is None:
        if call.first.rows is None and not (shape and shape.sized):
            return [Value(None, None, call.first.sized)]
        raise RowsMixError("the new shape is not known before the graph runs")
    return [reshape(call.first, ints, keep_zero=bool(call.node.integer("allowzero", 0)))]


def _flatten(call: Call) -> Sequence[Value]:
    value, axis = call.first, call.node.integer("axis", 1)
    if value.rows is None:
        return [Value((None, None), None, value.sized)]
    axis = axis + value.rank if axis < 0 else axis
    if value.rows != 0 or axis != 1:
        raise RowsMixError(f"axis {axis}: expected 1, with the rows first")
    return [reshape(value, [ROWS, -1])]


def _transpose(call: Call) -> Sequence[Value]:
    value = call.first
    if value.dims is None:
        return [value]
    order = call.node.integers("perm") or tuple(range(value.rank))[::-1]
    return [value.reshaped([value.dims[axis] for axis in order])]


def _squeeze(call: Call) -> Sequence[Value]:
    value, axes = call.first, call.axes()
    if value.dims is None:
        return [value]
    if axes is None:
        if value.rows is not None:
            raise RowsMixError("without axes it drops the batch axis of a single row: name the axes")
        return [Value(tuple(dim for dim in value.dims if dim != 1), value.ints, value.sized)]
    dropped = {value.axis(axis) for axis in axes}
    if value.rows in dropped:
        raise RowsMixError(f"it drops the rows (axis {value.rows})")
    return [Value(tuple(dim for at, dim in enumerate(value.dims) if at not in dropped), value.ints, value.sized)]


def _unsqueeze(call: Call) -> Sequence[Value]:
    value, axes = call.first, call.axes()
    if value.dims is None or axes is None:
        return [Value(None, value.ints, value.sized)]
    rank = value.rank + len(axes)
    added = {axis % rank for axis in axes}
    rest = iter(value.dims)
    return [Value(tuple(1 if at in added else next(rest) for at in range(rank)), value.ints, value.sized)]


def _concat(call: Call) -> Sequence[Value]:
    values = [call.input(index) for index in range(len(call.inputs))]
    if all(value.ints is not None for value in values):
        return [shape_value([each for value in values for each in value.ints or ()])]
    if any(value.dims is None for value in values):
        return [broadcast(values)]
    axis = values[0].axis(call.node.integer("axis", 1))
    if any(value.rank != values[0].rank for value in values):
        raise RowsMixError("its inputs differ in their number of dimensions")
    if any(value.rows == axis for value in values):
        raise RowsMixError(f"it joins along the rows (axis {axis})")
    sizes = [value.size(axis) for value in values]
    total = (
        sum(size for size in sizes if isinstance(size, int)) if all(isinstance(size, int) for size in sizes) else None
    )
    joined = broadcast([along(value, axis, 1) for value in values])
    if any(value.rows is None for value in values) and joined.rows is not None:
        raise RowsMixError("it joins rows with a constant, which takes a fixed number of rows")
    return [along(joined, axis, total)]


def _split(call: Call) -> Sequence[Value]:
    count = len(call.node.outputs)
    sizes: tuple[int | None, ...] | None = call.node.integers("split") or known_ints(call.optional(1), "the sizes")
    axis = call.first.axis(call.node.integer("axis", 0))
    whole = call.first.size(axis)
    if sizes is None:
        sizes = (whole // count if isinstance(whole, int) and whole % count == 0 else None,) * count
    return [along(call.first, axis, size) for size in sizes]


def _slice(call: Call) -> Sequence[Value]:
    value = call.first
    names = ("starts", "ends", "axes", "steps")
    given = [call.node.integers(name) for name in names] if call.opset < 10 else []
    if not given:
        given = [known_ints(call.optional(at), f"the input `{name}`") for at, name in enumerate(names, 1)]
    starts, ends = given[0] or (), given[1] or ()
    axes = given[2] or tuple(range(len(starts)))
    steps = given[3] or (1,) * len(starts)
    if value.ints is not None and value.rank == 1 and len(starts) == 1:
        return [shape_value(value.ints[starts[0] : ends[0] : steps[0]])]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = value.axis(axis)
        if (start, step) == (0, 1) and end >= WHOLE_AXIS:
            continue
        size = value.size(axis)
        value = along(value, axis, len(range(size)[start:end:step]) if isinstance(size, int) else None)
    return [value]


def _gather(call: Call) -> Sequence[Value]:
    data, indices = call.first, call.input(1)
    axis = data.axis(call.node.integer("axis", 0)) if data.dims is not None else 0
    if data.ints is not None and indices.ints is not None and data.rank == 1:
        known = known_ints(indices, "indices") or ()
        if all(-len(data.ints) <= at < len(data.ints) for at in known):
            return [shape_value([data.ints[at] for at in known], indices.dims)]
    if data.rows is None and indices.rows is None:
        dims = None
        if data.dims is not None and indices.dims is not None:
            dims = (*data.dims[:axis], *indices.dims, *data.dims[axis + 1 :])
        return [Value(dims, None, data.sized or indices.sized)]
    if data.rows is not None and indices.rows is not None:
        raise RowsMixError("it picks from rows by other rows")
    if data.rows == axis:
        raise RowsMixError(f"it picks rows by their place (axis {axis})")
    if data.sized or indices.sized:
        raise RowsMixError("the number of rows enters the calculation")
    if data.dims is None or indices.dims is None:
        raise RowsMixError("the shape of an input is not known")
    return [Value((*data.dims[:axis], *indices.dims, *data.dims[axis + 1 :]))]


def _gather_elements(call: Call) -> Sequence[Value]:
    data, indices = call.first, call.input(1)
    axis = data.axis(call.node.integer("axis", 0))
    if data.rows is None or data.rows != indices.rows or data.rows == axis:
        raise RowsMixError("expected rows in both inputs, on one axis other than its own")
    return [indices.reshaped(indices.dims or ())]


def _expand(call: Call) -> Sequence[Value]:
    shape = call.input(1)
    if shape.ints is None:
        if call.first.rows is None and not shape.sized:
            return [UNKNOWN]
        raise RowsMixError("the new shape is not known before the graph runs")
    return [broadcast([call.first, Value(shape.ints)])]


def _constant_of_shape(call: Call) -> Sequence[Value]:
    shape = call.first
    if shape.ints is None and shape.sized:
        raise RowsMixError("the new shape is not known before the graph runs")
    return [Value(shape.ints)]


def _tile(call: Call) -> Sequence[Value]:
    value, repeats = call.first, known_ints(call.optional(1), "the input `repeats`") or ()
    if value.rows is not None and (len(repeats) != value.rank or repeats[value.rows] != 1):
        raise RowsMixError("it repeats the rows")
    dims = [dim if dim == ROWS else _times(dim, each) for dim, each in zip(value.dims or (), repeats, strict=False)]
    return [value.reshaped(dims)]


def _times(dim: Dim, count: int) -> Dim:
    return dim * count if isinstance(dim, int) else None


def _pad(call: Call) -> Sequence[Value]:
    value = call.first
    pads = call.node.integers("pads") or known_ints(call.optional(1), "the input `pads`") or ()
    axes = known_ints(call.optional(3), "the input `axes`") or tuple(range(value.rank))
    if value.rows is not None:
        if len(pads) != 2 * len(axes):
            raise RowsMixError("its pads do not fit its input")
        for at, axis in enumerate(axes):
            if value.axis(axis) == value.rows and (pads[at] or pads[at + len(axes)]):
                raise RowsMixError("it adds rows")
    return [value.reshaped([dim if dim == ROWS else None for dim in value.dims or ()])]


def _one_hot(call: Call) -> Sequence[Value]:
    call.require_const_from(1)
    value = call.first
    rank = value.rank + 1
    axis = call.node.integer("axis", -1) % rank
    dims: list[Dim] = list(value.dims or ())
    dims.insert(axis, None)
    return [value.reshaped(dims)]


def _constant(call: Call) -> Sequence[Value]:
    node = call.node
    constant = node.constant("value")
    if constant is not None:
        return [Value(constant.shape, constant.ints)]
    if "value_int" in node.attributes:
        return [shape_value([node.integer("value_int", 0)], ())]
    if "value_ints" in node.attributes:
        return [shape_value(node.integers("value_ints") or ())]
    if "value_float" in node.attributes or "value_string" in node.attributes:
        return [Value(())]
    lists = [name for name in ("value_floats", "value_strings") if name in node.attributes]
    return [Value((node.count(lists[0]) or None,))] if lists else [UNKNOWN]


SHAPE_RULES: dict[tuple[str, str], Rule] = {
    ("", "Constant"): _constant,
    ("", "Concat"): _concat,
    ("", "ConstantOfShape"): _constant_of_shape,
    ("", "Expand"): _expand,
    ("", "Flatten"): _flatten,
    ("", "Gather"): _gather,
    ("", "GatherElements"): _gather_elements,
    ("", "OneHot"): _one_hot,
    ("", "Pad"): _pad,
    ("", "Reshape"): _reshape,
    ("", "Shape"): _shape,
    ("", "Size"): _size,
    ("", "Slice"): _slice,
    ("", "Split"): _split,
    ("", "Squeeze"): _squeeze,
    ("", "Tile"): _tile,
    ("", "Transpose"): _transpose,
    ("", "Unsqueeze"): _unsqueeze,
}
