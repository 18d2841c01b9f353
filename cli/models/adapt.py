"""Changes types, names and outputs inside a graph, so that a server can serve it.

In: `features`, float64 (rows, features of the schema). Out: `probability`, float64 (rows,). Everything between is the
file's own graph, less the nodes that only other outputs need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cli.models.graph import needed_nodes, reads, rename_tensors, tensor_names
from cli.models.plan import CLASSIFIERS, Plan, type_name
from cli.models.source import load, one_line
from common.errors import BundleError, UsageError
from server.core.graph_signature import INPUT, OUTPUT

PROBE_ROWS = 32
SAME = 1e-6  # largest difference between the file's graph and the adapted one
SAME_FLOAT16 = 5e-3  # the runtime keeps more digits in one than in the other
ROUNDING = 1e-5  # by so much float32 sums of a classifier may leave [0, 1]
PREFIX = "volcast_"
FREE_BATCH = "if the batch size is fixed inside the graph, export it with a free batch axis"


@dataclass(frozen=True)
class Adapted:
    """The graph that is served, with its probabilities for the rows that were tried."""

    model: bytes
    opset: int
    rows: NDArray[np.float64]  # (rows, features)
    probabilities: NDArray[np.float64]  # (rows,)
    changes: tuple[str, ...]


def adapt(source: Any, plan: Plan, rows: NDArray[np.float64]) -> Adapted:
    """The graph adapted to `plan` and compared with the source on `rows` (rows, features).

    Raises BundleError if the source gives no probability, or if the adapted graph differs from it.
    """
    expected = _source_values(source, plan, rows)
    column = _column(plan, expected.shape)
    values = expected if column is None else expected[:, column]
    _require_probabilities(plan, values)
    model = onnx.ModelProto()
    model.CopyFrom(source)
    finite = values[np.isfinite(values)]
    clip = bool(finite.min() < 0 or finite.max() > 1) or any(node.op_type in CLASSIFIERS for node in source.graph.node)
    changes = _rewrite(model, plan, column, rows.shape[1], clip)
    _describe_column(plan, column, expected.shape, changes)
    got = _run_adapted(model, plan, rows)
    _require_equal(got, np.clip(values, 0, 1) if clip else values, SAME_FLOAT16 if _has_float16(source) else SAME)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return Adapted(model.SerializeToString(deterministic=True), opset, rows, got, (*plan.notes, *changes))


def probe_rows(examples: tuple[float | None, ...]) -> NDArray[np.float64]:
    """Rows to try a graph with: the examples, rows around them, and rows around zero. Shape (rows, features)."""
    base = np.array([1.0 if value is None else value for value in examples])
    random = np.random.default_rng(0)
    around = base * np.exp(random.normal(0, 1, (PROBE_ROWS, len(base))))
    return np.concatenate([base[None], around, random.normal(0, 1, (PROBE_ROWS, len(base)))])


def _source_values(source: Any, plan: Plan, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The output's values of the unchanged graph, (rows,) or (rows, columns)."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    nodes = needed_nodes(model.graph, plan.output.tensor)
    inputs = [value for value in model.graph.input if value.name in {given.name for given in plan.inputs}]
    del model.graph.output[:], model.graph.input[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.input.extend(inputs)
    model.graph.output.add(name=plan.output.tensor)  # ONNX Runtime infers its type
    session = load(model)
    step = plan.fixed_batch or len(rows)
    parts = [_run_source(session, plan, rows[start : start + step], step) for start in range(0, len(rows), step)]
    return np.concatenate(parts)


def _run_source(session: Any, plan: Plan, part: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    filled = np.concatenate([part, np.repeat(part[-1:], step - len(part), axis=0)])
    try:
        (values,) = session.run(None, {given.name: given.values(filled) for given in plan.inputs})
    except Exception as error:  # whatever a graph makes ONNX Runtime raise
        text = f"the graph cannot be run on {len(filled)} rows: {one_line(error)}"
        raise BundleError(text if step == 1 else f"{text}; {FREE_BATCH}") from None
    array = np.asarray(values, np.float64)
    if array.ndim not in (1, 2) or len(array) != len(filled):
        expected = "[rows], [rows, 1] or [rows, classes]"
        raise BundleError(
            f"output {plan.output.name}: expected {expected}, got {list(array.shape)} for {len(filled)} rows"
        )
    return array[: len(part)]


def _column(plan: Plan, shape: tuple[int, ...]) -> int | None:
    """The column of the probability; None if the output has one dimension."""
    output = plan.output
    count = 1 if len(shape) == 1 else shape[1]
    if output.column is not None and output.column >= count:
        raise UsageError(f"--output: COLUMN: expected 0 to {count - 1}, got {output.column}")
    if len(shape) == 1:
        return None
    if output.column is not None:
        return output.column
    if count > 2:
        named = f" (classes {', '.join(output.classes)})" if len(output.classes) == count else ""
        raise BundleError(
            f"output {output.name} has {count} columns{named}: choose one with --output {output.name}:COLUMN"
        )
    return count - 1


def _require_probabilities(plan: Plan, values: NDArray[np.float64]) -> None:
    name = plan.output.name
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise BundleError(f"output {name} gives no number for any of {len(values)} rows that were tried")
    low, high = float(finite.min()), float(finite.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise BundleError(
            f"output {name}: expected probabilities in [0, 1], got {low:.4g} to {high:.4g}: these look like logits, "
            "scores or labels; export the model with a sigmoid or softmax at its end, or choose another --output"
        )


def _rewrite(model: Any, plan: Plan, column: int | None, width: int, clip: bool) -> list[str]:
    """Changes the model in place; returns a line for each change."""
    graph = model.graph
    outputs = [value.name for value in graph.output]
    names = _free_names(graph, (INPUT, OUTPUT))
    rename_tensors(graph, names)
    tensor = names.get(plan.output.tensor, plan.output.tensor)
    constants = {tensor.name for tensor in graph.initializer}
    del graph.input[:], graph.output[:], graph.value_info[:]
    before, changes = _input_nodes(graph, plan, names)
    after = _output_nodes(graph, tensor, column, clip)
    kept = needed_nodes(graph, tensor)
    nodes = [*before, *kept, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused_constants(graph, constants)
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.DOUBLE, ["rows", width]))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.DOUBLE, ["rows"]))
    dropped = [name for name in outputs if name != plan.output.name]
    if dropped:
        changes.append(f"output{'s' if len(dropped) > 1 else ''} {', '.join(dropped)} left out")
    if plan.fixed_batch is not None:
        changes.append(f"batch size {plan.fixed_batch} made free")
    if clip:
        changes.append(f"{OUTPUT} cut to [0, 1], which sums in float32 can leave by rounding")
    return changes


def _input_nodes(graph: Any, plan: Plan, names: dict[str, str]) -> tuple[list[Any], list[str]]:
    nodes, changes = [], []
    for number, given in enumerate(plan.inputs):
        name, column = names.get(given.name, given.name), INPUT
        if given.columns is not None:
            index, column = f"{PREFIX}index_{number}", f"{PREFIX}column_{number}"
            position = np.array(given.columns[0] if given.flat else given.columns, np.int64)
            graph.initializer.append(numpy_helper.from_array(position, index))
            nodes.append(helper.make_node("Gather", [INPUT, index], [column], axis=1))
        nodes.append(helper.make_node("Cast", [column], [name], to=given.element))
    kinds = sorted({type_name(given.element) for given in plan.inputs})
    if plan.inputs[0].columns is not None:
        plural = "s" if len(plan.inputs) > 1 else ""
        text = f"{len(plan.inputs)} input{plural} ({', '.join(kinds)}) taken from the columns of {INPUT} (float64)"
        changes.append(text)
    elif (plan.inputs[0].name, kinds) != (INPUT, ["double"]):
        changes.append(f"input {plan.inputs[0].name} ({kinds[0]}) fed from {INPUT} (float64)")
    return nodes, changes


def _output_nodes(graph: Any, tensor: str, column: int | None, clip: bool) -> list[Any]:
    nodes = []
    if column is not None:
        graph.initializer.append(numpy_helper.from_array(np.array(column, np.int64), f"{PREFIX}class"))
        nodes.append(helper.make_node("Gather", [tensor, f"{PREFIX}class"], [f"{PREFIX}chosen"], axis=1))
        tensor = f"{PREFIX}chosen"
    if not clip:
        return [*nodes, helper.make_node("Cast", [tensor], [OUTPUT], to=TensorProto.DOUBLE)]
    for name, bound in (("low", 0.0), ("high", 1.0)):
        graph.initializer.append(numpy_helper.from_array(np.array([bound]), f"{PREFIX}{name}"))
    return [  # Min and Max: Clip takes no float64 before opset 12
        *nodes,
        helper.make_node("Cast", [tensor], [f"{PREFIX}wide"], to=TensorProto.DOUBLE),
        helper.make_node("Max", [f"{PREFIX}wide", f"{PREFIX}low"], [f"{PREFIX}not_below"]),
        helper.make_node("Min", [f"{PREFIX}not_below", f"{PREFIX}high"], [OUTPUT]),
    ]


def _describe_column(plan: Plan, column: int | None, shape: tuple[int, ...], changes: list[str]) -> None:
    name = plan.output.name
    if column is None or shape[1] == 1:
        if name != OUTPUT:
            changes.append(f"output {name} renamed {OUTPUT}")
        return
    of_class = f" (class {plan.output.classes[column]})" if len(plan.output.classes) == shape[1] else ""
    changes.append(f"{OUTPUT} is column {column} of {shape[1]} of output {name}{of_class}")


def _free_names(graph: Any, reserved: tuple[str, ...]) -> dict[str, str]:
    """New names for the graph's own tensors that have a reserved name."""
    taken = set(tensor_names(graph))
    new = {}
    for name in taken:
        if name in reserved or name.startswith(PREFIX):
            free = f"own_{name}"
            while free in taken:
                free = f"own_{free}"
            new[name] = free
    return new


def _drop_unused_constants(graph: Any, constants: set[str]) -> None:
    used = {name for node in graph.node for name in reads(node)}
    kept = [tensor for tensor in graph.initializer if tensor.name in used or tensor.name not in constants]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _run_adapted(model: Any, plan: Plan, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    session = load(model)
    try:
        (values,) = session.run([OUTPUT], {INPUT: rows})
    except Exception as error:  # whatever a graph makes ONNX Runtime raise
        raise BundleError(
            f"the graph cannot be run on {len(rows)} rows at once: {one_line(error)}; {FREE_BATCH}"
        ) from None
    return np.asarray(values, np.float64)


def _has_float16(source: Any) -> bool:
    kinds = {value.type.tensor_type.elem_type for value in (*source.graph.input, *source.graph.output)}
    return TensorProto.FLOAT16 in kinds | {constant.data_type for constant in source.graph.initializer}


def _require_equal(got: NDArray[np.float64], expected: NDArray[np.float64], limit: float) -> None:
    if got.shape != expected.shape:
        raise BundleError(f"the adapted graph gives {list(got.shape)} values for {len(expected)} rows; {FREE_BATCH}")
    difference = np.abs(got - expected)
    difference[np.isnan(got) & np.isnan(expected)] = 0.0
    worst = float(difference.max())
    if not worst <= limit:
        raise BundleError(f"the adapted graph differs from the file by {worst:.3g} on {len(expected)} rows")
