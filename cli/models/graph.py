"""Tensors and nodes of an ONNX graph: names, dependencies, renaming."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def _graphs(graph: Any) -> Iterator[Any]:
    """The graph and every graph inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _graphs(inner)


def tensor_names(graph: Any) -> Iterator[str]:
    for inner in _graphs(graph):
        for value in (*inner.input, *inner.output, *inner.initializer, *inner.value_info):
            yield value.name
        for sparse in inner.sparse_initializer:
            yield sparse.values.name
        for node in inner.node:
            yield from node.input
            yield from node.output


def rename_tensors(graph: Any, names: dict[str, str]) -> None:
    """Renames tensors everywhere; inner graphs too, since they may read outer tensors."""
    if not names:
        return
    for inner in list(_graphs(graph)):
        for value in (*inner.input, *inner.output, *inner.initializer, *inner.value_info):
            value.name = names.get(value.name, value.name)
        for sparse in inner.sparse_initializer:
            sparse.values.name = names.get(sparse.values.name, sparse.values.name)
        for node in inner.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]


def needed_nodes(graph: Any, tensor: str) -> list[Any]:
    """The nodes that `tensor` depends on, in their order."""
    wanted = {tensor}
    kept = []
    for node in reversed(graph.node):
        if wanted.isdisjoint(node.output):
            continue
        kept.append(node)
        wanted.update(reads(node))
    return kept[::-1]


def reads(node: Any) -> Iterator[str]:
    """Tensors that a node reads, those of its inner graphs included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            for value in inner.output:
                yield value.name
            for each in inner.node:
                yield from reads(each)
