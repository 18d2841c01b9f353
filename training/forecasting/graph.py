"""A fitted forecast as an ONNX graph with the inputs and outputs of common/bundle.py.

The distribution function of scaled residuals is piecewise linear, and so is its inverse. Each is a sum of hinges,
constant + sum of d_k * max(u, z_k), in two nodes. A node costs a row some 0.35 us, so there are as few nodes as the
contract allows; a scale that is the same for all rows is a part of the hinges. All arithmetic is in double precision.
Trees compare as XGBoost does, in float32 (docs/decisions/0012-models-and-calibration.md), by splits moved half a step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from training.forecasting.distribution import CEILING_BPS, with_tails
from training.forecasting.form import HIGH, LOW, FittedForecast
from training.forecasting.trees import tree_attributes
from training.problem.target import Floats

FEATURES, SPIKE_BPS, LEVELS = "features", "spike_bps", "levels"
OPSET = 18
ML_OPSET = 5  # for TreeEnsemble, which takes and gives doubles
IR_VERSION = 8  # of ONNX 1.10, so that old runtimes can read it
PROBABILITY, MEDIAN_BPS, QUANTILE_BPS = "probability", "median_bps", "quantile_bps"


class _Graph:
    """Nodes and constants, in the order of their creation."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, values: Any, dtype: Any = np.float64) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output


def forecast_graph(fitted: FittedForecast) -> bytes:
    """The model's bytes: the same for the same fit, without a trace of the machine."""
    graph = _Graph()
    _location_and_scale(graph, fitted)
    _probability(graph, fitted)
    _quantiles(graph, fitted)
    double, features = TensorProto.DOUBLE, len(fitted.schema)
    inputs = ((FEATURES, features), (SPIKE_BPS, 1), (LEVELS, "levels"))
    outputs = ((PROBABILITY, 1), (MEDIAN_BPS, 1), (QUANTILE_BPS, "levels"))
    whole = helper.make_graph(
        graph.nodes,
        "volatility",
        [helper.make_tensor_value_info(name, double, ["rows", columns]) for name, columns in inputs],
        [helper.make_tensor_value_info(name, double, ["rows", columns]) for name, columns in outputs],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    if fitted.trees:
        opsets.append(helper.make_opsetid("ai.onnx.ml", ML_OPSET))
    model = helper.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION, producer_name="volcast")
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def hinges(at: Floats, values: Floats) -> tuple[Floats, float]:
    """The function through (at, values), constant beyond, as sum of d_k * max(x, at_k) + constant: d (K,), constant."""
    slopes = np.diff(values) / np.diff(at)
    weights = np.diff(np.concatenate([[0.0], slopes, [0.0]]))
    return weights, float(values[0] - weights @ at)


def _location_and_scale(graph: _Graph, fitted: FittedForecast) -> None:
    """Nodes from `features` to `centre`, the exponential of the location, and to `scale`, (rows, 1) each.

    A scale that is the same for all rows gets no node: it is a part of the hinges.
    """
    design, node, constant = fitted.design, graph.node, graph.constant
    names = design.schema.names
    places = [names.index(name) for name in design.names] or [0]
    columns = FEATURES
    if len(places) < len(names):
        columns = node("Gather", [FEATURES, constant("places", places, np.int64)], "columns", axis=1)
    if design.signed:
        columns = node("Abs", [columns], "unsigned")
    node("Clip", [columns, constant("low", LOW), constant("high", HIGH)], "sizes")
    node("Log", ["sizes"], "logs")
    in_span = [place - design.span.start for place in places]
    location, bias = fitted.location[in_span, None], fitted.location[-1:]
    if _constant_scale(fitted):
        node("Gemm", ["logs", constant("weights", location), constant("bias", bias)], "linear")
        node("Exp", ["linear"], "centre")
        return
    weights = constant("weights", np.hstack([location, fitted.log_scale[in_span, None]]))
    biases = np.append(bias, fitted.log_scale[-1])
    added = _trees(graph, fitted, in_span, biases) if fitted.trees else constant("biases", biases)
    node("Gemm", ["logs", weights, added], "linear")
    node("Exp", ["linear"], "both")
    graph.nodes.append(helper.make_node("Split", ["both"], ["centre", "scale"], axis=1, num_outputs=2))


def _constant_scale(fitted: FittedForecast) -> float:
    """The scale of all rows; 0 if it depends on the row."""
    constant = not fitted.trees and not fitted.log_scale[:-1].any()
    return float(np.exp(fitted.log_scale[-1])) if constant else 0.0


def _trees(graph: _Graph, fitted: FittedForecast, in_span: list[int], biases: Floats) -> str:
    """Nodes to the biases of location and scale in each row, (rows, 2): the leaves add to that of the location."""
    node, weights = graph.node, fitted.design.unit_weights
    units = [graph.constant("unit_weights", weights[in_span]), graph.constant("unit_biases", weights[-1])]
    node("Gemm", ["logs", *units], "units")
    attributes = tree_attributes(fitted.trees, biases.tolist())
    return node("TreeEnsemble", ["units"], "grown", domain="ai.onnx.ml", **attributes)


def _probability(graph: _Graph, fitted: FittedForecast) -> None:
    """1 - F(log(size / centre) / scale). Sizes up to the floor become 0, whose logarithm is below every knot."""
    node, constant = graph.node, graph.constant
    node("Shrink", [SPIKE_BPS], "size", lambd=fitted.floor_bps, bias=0.0)
    node("Div", ["size", "centre"], "ratio")
    scaled = node("Log", ["ratio"], "log_ratio")
    levels, knots = with_tails(fitted.levels, fitted.knots)
    scale = _constant_scale(fitted)
    if scale:
        knots = knots * scale
    else:
        scaled = node("Div", ["log_ratio", "scale"], "scaled")
    weights, first = hinges(knots, 1.0 - levels)
    node("Max", [scaled, constant("knots", knots)], "hinges")
    node("Gemm", ["hinges", constant("densities", weights[:, None]), constant("certain", [first])], PROBABILITY)


def _quantiles(graph: _Graph, fitted: FittedForecast) -> None:
    """The median, which is the centre, and centre * exp(scale * knot at the level); both between floor and ceiling."""
    node, constant = graph.node, graph.constant
    bounds = [constant("floor", fitted.floor_bps), constant("ceiling", CEILING_BPS)]
    node("Clip", ["centre", *bounds], MEDIAN_BPS)
    scale = _constant_scale(fitted)
    weights, first = hinges(fitted.levels, fitted.knots * (scale or 1.0))
    # A hinge is a plane of (rows, levels): for many levels faster than hinges on the last axis. No level reaches 1, so
    # the last hinge is the constant.
    planes = {"knot_levels": np.append(fitted.levels, 1.0), "stretches": np.append(weights, first)}
    knot_levels, stretches = (constant(name, values[:, None, None]) for name, values in planes.items())
    node("Max", [LEVELS, knot_levels], "level_hinges")
    node("Mul", ["level_hinges", stretches], "stretched")
    distance = node("ReduceSum", ["stretched", constant("planes", [0], np.int64)], "level_knots", keepdims=0)
    if not scale:
        distance = node("Mul", ["level_knots", "scale"], "distance")
    node("Exp", [distance], "multiple")
    node("Mul", ["multiple", "centre"], "unbounded")
    node("Clip", ["unbounded", *bounds], QUANTILE_BPS)
