"""Trees of XGBoost as the attributes of ai.onnx.ml's TreeEnsemble, in double precision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import numpy_helper

LESS, SUM, NO_TRANSFORM = 1, 1, 0  # of TreeEnsemble: x < split; leaves are added; the sum is the output


class _Ensemble:
    """Attributes of nodes, and the leaves (target and value), in the order of their creation."""

    def __init__(self) -> None:
        self.features: list[int] = []
        self.splits: list[float] = []
        self.missing_to_true: list[int] = []
        self.next: dict[str, list[int]] = {"true": [], "false": []}  # side -> node or leaf
        self.next_is_leaf: dict[str, list[int]] = {"true": [], "false": []}
        self.leaves: list[tuple[int, float]] = []

    def node(self, feature: int, split: float, missing_to_true: int) -> int:
        self.features.append(feature)
        self.splits.append(split)
        self.missing_to_true.append(missing_to_true)
        for values in (*self.next.values(), *self.next_is_leaf.values()):
            values.append(0)
        return len(self.features) - 1

    def leaf(self, parent: int, side: str, target: int, value: float) -> None:
        self.leaves.append((target, value))
        self.next[side][parent], self.next_is_leaf[side][parent] = len(self.leaves) - 1, 1

    def tree(self, tree: dict[str, list[Any]], place: int) -> int:
        """Adds the node of XGBoost's tree at a place, and the nodes and leaves below; its number."""
        values, firsts, seconds = tree["split_conditions"], tree["left_children"], tree["right_children"]
        node = self.node(tree["split_indices"][place], double_split(values[place]), int(tree["default_left"][place]))
        for side, child in (("true", firsts[place]), ("false", seconds[place])):
            if firsts[child] < 0:
                self.leaf(node, side, 0, float(np.float32(values[child])))
            else:
                self.next[side][node] = self.tree(tree, child)
        return node

    def constant(self, target: int, value: float) -> int:
        """Adds a tree that gives a value to all rows; its number."""
        node = self.node(0, 0.0, 0)
        for side in ("true", "false"):
            self.leaf(node, side, target, value)
        return node


def tree_attributes(booster: bytes, constants: Sequence[float]) -> dict[str, Any]:
    """Attributes of trees in XGBoost's JSON. Features have the numbers that the booster gives them.

    constants: a value for each target; the sum of the leaves is added to the first.
    """
    ensemble, roots = _Ensemble(), []
    for tree in json.loads(booster)["learner"]["gradient_booster"]["model"]["trees"]:
        if tree["left_children"][0] < 0:
            roots.append(ensemble.constant(0, float(np.float32(tree["split_conditions"][0]))))
        else:
            roots.append(ensemble.tree(tree, 0))
    roots += [ensemble.constant(target, value) for target, value in enumerate(constants)]
    targets, weights = zip(*ensemble.leaves, strict=True)
    return {
        "nodes_featureids": ensemble.features,
        "nodes_splits": _tensor(ensemble.splits, np.float64),
        "nodes_modes": _tensor([LESS] * len(ensemble.splits), np.uint8),
        "nodes_missing_value_tracks_true": ensemble.missing_to_true,
        "nodes_truenodeids": ensemble.next["true"],
        "nodes_trueleafs": ensemble.next_is_leaf["true"],
        "nodes_falsenodeids": ensemble.next["false"],
        "nodes_falseleafs": ensemble.next_is_leaf["false"],
        "tree_roots": roots,
        "leaf_targetids": list(targets),
        "leaf_weights": _tensor(weights, np.float64),
        "n_targets": len(constants),
        "aggregate_function": SUM,
        "post_transform": NO_TRANSFORM,
    }


def double_split(value: float) -> float:
    """The double s for which x < s if and only if x, rounded to float32 as XGBoost does, is below `value`, a float32.

    s is half way between `value` and the float32 before it. IEEE 754 rounds x = s to the even one of the two.
    """
    split = np.float32(value)
    half_way = (float(split) + float(np.nextafter(split, np.float32(-np.inf)))) / 2
    rounds_down = int(split.view(np.uint32)) & 1
    return float(np.nextafter(half_way, np.inf)) if rounds_down else half_way


def _tensor(values: Sequence[Any], dtype: Any) -> Any:
    return numpy_helper.from_array(np.asarray(values, dtype))
