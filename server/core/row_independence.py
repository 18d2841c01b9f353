"""Refuses a graph in which one row of a batch can influence another.

Callers share batches, so the answer to a row must not depend on the rows beside it. A test with some rows cannot show
that: this check follows the batch axis through the graph, from the inputs to the outputs, by the rules of
row_rules.py. Nodes that no output depends on are skipped. load_checks.py adds a test with
different rows.
"""

from __future__ import annotations

from dataclasses import replace

from common.errors import BundleError
from server.core.graph_scan import KNOWN_DOMAINS
from server.core.graph_signature import INPUT, LEVELS, MEDIAN, OUTPUT, QUANTILES, SIZES
from server.core.onnx_graph import Function, Graph, Node, read_graph
from server.core.row_rules import RULES
from server.core.row_values import ROWS, Call, RowsMixError, Value

MIN_OPSET = 7  # older operators broadcast by an attribute
MAX_FUNCTION_DEPTH = 32


def require_independent_rows(model: bytes, width: int, opset: int, *, forecasts: bool = False) -> None:
    """width: features per row. opset: of ai.onnx. forecasts: whether the model forecasts a distribution.

    Raises BundleError, which names the node that can mix rows.
    """
    graph = read_graph(model)
    foreign = next((name for domain, name in graph.functions if domain in KNOWN_DOMAINS), None)
    if foreign is not None:
        raise BundleError(f"model.onnx defines the operator {foreign[:64]!r} again")
    if opset and opset < MIN_OPSET:
        raise BundleError(f"opset: expected at least {MIN_OPSET}, got {opset}")
    values = {name: Value(constant.shape, constant.ints) for name, constant in graph.constants.items()}
    values[INPUT] = Value((ROWS, width))
    outputs = [OUTPUT]
    if forecasts:
        values |= {SIZES: Value((ROWS, 1)), LEVELS: Value((ROWS, None))}
        outputs += [MEDIAN, QUANTILES]
    _Walk(graph, opset).run(_needed(graph.nodes, set(outputs)), values)
    for name in outputs:
        output = values.get(name)
        if output is None:
            raise BundleError(f"outputs: expected {name}")
        if output.rows != 0 or output.sized:
            what = "expected a value for each row, got a value that depends on no single row"
            raise BundleError(f"output {name}: {what}")


class _Walk:
    def __init__(self, graph: Graph, opset: int) -> None:
        self._functions = graph.functions
        self._opset = opset

    def run(self, nodes: list[Node], values: dict[str, Value], depth: int = 0) -> None:
        """Adds the outputs of the nodes to `values`."""
        for node in nodes:
            inputs = [_input(node, name, values) for name in node.inputs]
            function = self._functions.get((node.domain, node.operator))
            outputs = self._call(node, function, inputs, depth) if function else self._apply(node, inputs)
            values |= {name: value for name, value in zip(node.outputs, outputs, strict=False) if name}

    def _apply(self, node: Node, inputs: list[Value | None]) -> list[Value]:
        rule = RULES.get((node.domain, node.operator))
        try:
            if rule is None:
                raise RowsMixError("this operator is not known to keep the rows apart")
            return list(rule(Call(node, inputs, self._opset)))
        except RowsMixError as reason:
            raise _refusal(node, str(reason)) from None
        except (IndexError, ValueError, TypeError, ZeroDivisionError):
            raise _refusal(node, "its attributes do not fit its inputs") from None

    def _call(self, node: Node, function: Function, inputs: list[Value | None], depth: int) -> list[Value]:
        """Applies a function of the file by its body."""
        if depth >= MAX_FUNCTION_DEPTH:
            raise _refusal(node, "its functions call each other too deeply")
        body = [_with_attributes(inner, node, function) for inner in _needed(function.nodes, set(function.outputs))]
        given = zip(function.inputs, inputs, strict=False)
        values = {name: value for name, value in given if value is not None}
        self.run(body, values, depth + 1)
        missing = [name for name in function.outputs if name not in values]
        if missing:
            raise _refusal(node, f"its function gives no {missing[0][:64]!r}")
        return [values[name] for name in function.outputs]


def _input(node: Node, name: str, values: dict[str, Value]) -> Value | None:
    if not name:
        return None
    if name not in values:
        raise _refusal(node, f"its input {name[:64]!r} is not in the graph")
    return values[name]


def _needed(nodes: list[Node], outputs: set[str]) -> list[Node]:
    """The nodes that `outputs` depend on, in order."""
    wanted = set(outputs)
    needed = []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.outputs):
            needed.append(node)
            wanted.update(node.inputs)
    return needed[::-1]


def _with_attributes(inner: Node, call: Node, function: Function) -> Node:
    """A node of a function's body, with the attributes of the call in place of references to them."""
    attributes = {}
    for name, where in inner.attributes.items():
        reference = inner.reference(name)
        source = call.attributes.get(reference, function.defaults.get(reference)) if reference else where
        if source is not None:
            attributes[name] = source
    return replace(inner, attributes=attributes)


def _refusal(node: Node, reason: str) -> BundleError:
    name = (node.name or next((name for name in node.outputs if name), ""))[:64]
    operator = f"{node.domain}.{node.operator}" if node.domain else node.operator
    return BundleError(
        f"rows can mix: node {name!r} ({operator[:64]}): {reason}; each row must be scored by itself, since callers "
        "share batches"
    )
