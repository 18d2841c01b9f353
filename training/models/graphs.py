"""Models as ONNX graphs that take a schema's rows as they are.

Linear:  probability = Sigmoid(Cast<double>(Log(Cast<float>(Abs(features) + offsets))) · weights + bias)
Trees:   probability = Sigmoid(linear logit + Cast<double>(TreeEnsemble(Cast<float>(sizes))))

docs/decisions/0003-onnx-export.md says why they are composed by hand, 0012 why trees compare in float32.
Logs are taken in single precision, a third less time for a batch: by then prices have become sizes of moves,
and a log of them is right to 1e-6 (weighed in single precision too it would be 1e-5, and depend on the batch).
All else is in double precision.
Columns a model does not use have weight 0. Every row of values within float32's range, however wild, gives
a finite probability: Abs(x) + offset is above 0, its log between -20 and 89, what keeps its sign is cut to
±1, and the sigmoid of any number is in [0, 1]. A row beyond it may have none; servers tell its caller so.
Calibration is folded into weights, leaves and bias.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper

from common.bundle import Calibration
from common.schema import FeatureSchema
from training.models.transforms import Terms

OPSET = 18
ML_OPSET = 3
IR_VERSION = 8  # of ONNX 1.10: old enough for any runtime we meet
WEIGHT_DIGITS = 10  # rounding hides the last bits, which differ between processors
Constants = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Trees:
    """Nodes of all trees as ai.onnx.ml's TreeEnsembleRegressor names them."""

    attributes: dict[str, list[Any]] = field(
        default_factory=lambda: {
            name: []
            for name in (
                "nodes_treeids",
                "nodes_nodeids",
                "nodes_featureids",
                "nodes_modes",
                "nodes_values",
                "nodes_truenodeids",
                "nodes_falsenodeids",
                "nodes_missing_value_tracks_true",
                "target_treeids",
                "target_nodeids",
                "target_ids",
                "target_weights",
            )
        }
    )

    def add_split(
        self, tree: int, node: int, children: tuple[int, int], feature: int, below: float, default_left: bool
    ) -> None:
        """Rows with a value below `below` go to the first child."""
        self._add_node(tree, node, feature, "BRANCH_LT", below, children, default_left)

    def add_leaf(self, tree: int, node: int, weight: float) -> None:
        self._add_node(tree, node, 0, "LEAF", 0.0, (0, 0), False)
        for name, value in zip(("treeids", "nodeids", "ids", "weights"), (tree, node, 0, weight), strict=True):
            self.attributes[f"target_{name}"].append(value)

    def _add_node(
        self, tree: int, node: int, feature: int, mode: str, value: float, children: tuple[int, int], missing: bool
    ) -> None:
        columns = {
            "treeids": tree,
            "nodeids": node,
            "featureids": feature,
            "modes": mode,
            "values": value,
            "truenodeids": children[0],
            "falsenodeids": children[1],
            "missing_value_tracks_true": int(missing),
        }
        for name, one in columns.items():
            self.attributes[f"nodes_{name}"].append(one)


def linear_graph(schema: FeatureSchema, terms: Terms, weights: NDArray[np.float64], bias: float) -> bytes:
    """The model's bytes: the same for the same fit, with nothing in them of who made it or where."""
    nodes, constants = _logit(schema, terms, weights, bias)
    nodes.append(helper.make_node("Sigmoid", ["logit"], ["probability"]))
    return _model(schema, nodes, constants, {"": OPSET})


def tree_graph(
    schema: FeatureSchema,
    terms: Terms,
    trees: Trees,
    base: tuple[NDArray[np.float64], float] | float,
    calibration: Calibration,
) -> bytes:
    """`base`: weights and bias of a linear model over the same terms, or a logit. Bytes as of linear_graph."""
    nodes: list[Any] = []
    constants: Constants = {}
    if isinstance(base, float):
        constants["logit"] = np.array([[rounded(base * calibration.slope + calibration.intercept)]])
    else:
        weights, bias = base
        moved = bias * calibration.slope + calibration.intercept
        nodes, constants = _logit(schema, terms, weights * calibration.slope, moved)
    signed = list(terms.index[terms.logs :])
    sizes = "size"
    if signed:
        mirror = np.full(len(schema), -1.0)
        mirror[signed] = 1.0
        constants["mirror"] = mirror
        nodes.append(helper.make_node("Mul", ["features", "mirror"], ["mirrored"]))
        nodes.append(helper.make_node("Max", ["features", "mirrored"], ["size_or_signed"]))
        sizes = "size_or_signed"
    elif isinstance(base, float):
        nodes.append(helper.make_node("Abs", ["features"], ["size"]))
    attributes: dict[str, Any] = dict(trees.attributes)
    attributes["nodes_featureids"] = [terms.index[at] for at in attributes["nodes_featureids"]]
    # Calibration is folded in: each node of a graph costs a row some 0.3 µs.
    scaled = np.array(attributes["target_weights"]) * calibration.slope
    attributes["target_weights"] = scaled.astype(np.float32).tolist()
    nodes += [
        helper.make_node("Cast", [sizes], ["rounded"], to=TensorProto.FLOAT),
        helper.make_node(
            "TreeEnsembleRegressor", ["rounded"], ["leaves"], domain="ai.onnx.ml", n_targets=1, **attributes
        ),
        helper.make_node("Cast", ["leaves"], ["grown"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["grown", "logit"], ["calibrated"]),
        helper.make_node("Sigmoid", ["calibrated"], ["probability"]),
    ]
    return _model(schema, nodes, constants, {"": OPSET, "ai.onnx.ml": ML_OPSET})


def _logit(
    schema: FeatureSchema, terms: Terms, weights: NDArray[np.float64], bias: float
) -> tuple[list[Any], Constants]:
    """Nodes from `features` to `logit`, (rows, 1), and their constants."""
    logs, signed = terms.index[: terms.logs], terms.index[terms.logs :]
    offset = np.ones(len(schema))
    offset[list(logs)] = terms.offsets
    constants: Constants = {
        "offset": offset,
        "weight": _column(schema, logs, weights[: terms.logs]),
        "bias": np.array([rounded(bias)]),
    }
    nodes = [
        helper.make_node("Abs", ["features"], ["size"]),
        helper.make_node("Add", ["size", "offset"], ["above_zero"]),
        helper.make_node("Cast", ["above_zero"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("Log", ["single"], ["single_logs"]),
        helper.make_node("Cast", ["single_logs"], ["logs"], to=TensorProto.DOUBLE),
        helper.make_node("Gemm", ["logs", "weight", "bias"], ["of_logs" if signed else "logit"]),
    ]
    if signed:
        constants |= {
            "low": np.array(-1.0),
            "high": np.array(1.0),
            "signed_weight": _column(schema, signed, weights[terms.logs :]),
        }
        nodes += [
            helper.make_node("Clip", ["features", "low", "high"], ["signed"]),
            helper.make_node("Gemm", ["signed", "signed_weight", "of_logs"], ["logit"]),
        ]
    return nodes, constants


def _column(schema: FeatureSchema, index: tuple[int, ...], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    column = np.zeros((len(schema), 1))
    column[list(index), 0] = [rounded(value) for value in weights]
    return column


def _model(schema: FeatureSchema, nodes: list[Any], constants: Constants, opsets: dict[str, int]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "volatility",
        [helper.make_tensor_value_info("features", TensorProto.DOUBLE, ["rows", len(schema)])],
        [helper.make_tensor_value_info("probability", TensorProto.DOUBLE, ["rows", 1])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="volcast")
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def rounded(value: float) -> float:
    """To ten digits: the last bits differ between processors."""
    return float(f"{value:.{WEIGHT_DIGITS}g}")
