"""Trees of XGBoost as the attributes of ai.onnx.ml's TreeEnsembleRegressor."""

from __future__ import annotations

import json
from typing import Any

import numpy as np


def tree_attributes(booster: bytes) -> dict[str, list[Any]]:
    """A list for each attribute, from XGBoost's JSON. Features have the numbers that the booster gives them.

    Rows with a value below a split's value go to its first child, a comparison of float32 values as XGBoost makes it.
    """
    model = json.loads(booster)["learner"]["gradient_booster"]["model"]
    nodes: list[dict[str, Any]] = []
    leaves: list[dict[str, Any]] = []
    for number, tree in enumerate(model["trees"]):
        for node, first in enumerate(tree["left_children"]):
            value, leaf = float(np.float32(tree["split_conditions"][node])), first < 0
            nodes.append(
                {
                    "treeids": number,
                    "nodeids": node,
                    "featureids": 0 if leaf else tree["split_indices"][node],
                    "modes": "LEAF" if leaf else "BRANCH_LT",
                    "values": 0.0 if leaf else value,
                    "truenodeids": 0 if leaf else first,
                    "falsenodeids": 0 if leaf else tree["right_children"][node],
                    "missing_value_tracks_true": 0 if leaf else int(tree["default_left"][node]),
                }
            )
            if leaf:
                leaves.append({"treeids": number, "nodeids": node, "ids": 0, "weights": value})
    return {
        f"{prefix}_{name}": [entry[name] for entry in entries]
        for prefix, entries in (("nodes", nodes), ("target", leaves))
        for name in entries[0]
    }
