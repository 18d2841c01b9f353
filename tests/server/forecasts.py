"""Forecast models for tests: a small graph with few knots, and its NumPy twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from common.bundle import Manifest, ManifestFeature, ManifestForecast, ManifestSchema, SelfTest, Survival
from common.schema import CORE_1, FeatureSchema
from tests.server.bundles import EXAMPLE, write_bundle

Array = NDArray[np.float64]

TRAILING = "grid_volatility_3600s"
FLOOR_BPS = 0.05
SPIKE_BPS = 2.5
SIZES = Survival((0.5, 1.0, 2.0, 4.0, 8.0), (0.95, 0.7, 0.4, 0.1, 0.02))
MULTIPLES = Survival((0.25, 1.0, 3.0), (0.9, 0.45, 0.05))
# Scaled residuals, and the share of residuals below each.
KNOTS = np.array([-3.0, -1.0, 0.0, 1.0, 4.0])
SHARES = np.array([0.0, 0.15, 0.55, 0.85, 1.0])
LEVELS_16 = tuple(float(level) for level in np.linspace(0.02, 0.98, 16))


def example_row(schema: FeatureSchema) -> tuple[float, ...]:
    """A row of a calm market: volatilities of a few basis points, other features of the order of 1."""
    if schema is CORE_1:
        return EXAMPLE
    small = ("volatility", "return", "spread")
    return tuple(3e-4 if any(part in name for part in small) else 0.5 for name in schema.names)


def hinges(x: Array, y: Array) -> tuple[Array, Array]:
    """(at, factors): the line through the points (x, y), flat outside, is y[0] + sum of factor x Relu(. - at)."""
    slopes = np.concatenate([[0.0], np.diff(y) / np.diff(x), [0.0]])
    return x, np.diff(slopes)


@dataclass(frozen=True)
class Forecaster:
    """log volatility = log of a volatility feature + linear term + scale x residual; different for each seed."""

    seed: int = 1
    schema: FeatureSchema = CORE_1

    @property
    def column(self) -> int:
        return self.schema.names.index("volatility" if self.schema is CORE_1 else TRAILING)

    def parameters(self) -> tuple[Array, Array, Array]:
        """Weights of the location and of the log scale, (features, 1) each, and both intercepts."""
        random = np.random.default_rng(self.seed)
        width = len(self.schema)
        scale = 1 / np.maximum(np.abs(np.array(example_row(self.schema))), 1e-9)
        location, spread = (random.normal(0, 0.02, width) * scale for _ in range(2))
        return location[:, None], spread[:, None], random.normal([0.1, -0.7], 0.05)

    def moments(self, matrix: Array) -> tuple[Array, Array]:
        """Location and scale of log volatility in bps, (rows, 1) each."""
        location, spread, intercepts = self.parameters()
        offset = np.log(np.maximum(matrix[:, [self.column]] * 1e4, FLOOR_BPS))
        return offset + matrix @ location + intercepts[0], np.exp(matrix @ spread + intercepts[1])

    def probability(self, matrix: Array, sizes: Array) -> Array:
        """(rows,), for sizes (rows,)."""
        location, scale = self.moments(matrix)
        below = np.interp((np.log(sizes[:, None]) - location) / scale, KNOTS, SHARES)
        return np.asarray(np.where(sizes <= FLOOR_BPS, 1.0, 1 - below[:, 0]))

    def quantiles(self, matrix: Array, levels: Array) -> Array:
        """(rows, levels), for levels (rows, levels)."""
        location, scale = self.moments(matrix)
        return np.asarray(np.maximum(np.exp(location + scale * np.interp(levels, SHARES, KNOTS)), FLOOR_BPS))

    def medians(self, matrix: Array) -> Array:
        return self.quantiles(matrix, np.full((len(matrix), 1), 0.5))[:, 0]

    def graph(self, change: Callable[[list[onnx.NodeProto]], None] = lambda nodes: None) -> onnx.ModelProto:
        """change: alters the list of nodes, for a defect."""
        location, spread, intercepts = self.parameters()
        at, factors = hinges(KNOTS, SHARES)
        level_at, level_factors = hinges(SHARES, KNOTS)
        median = np.interp(0.5, SHARES, KNOTS)
        constants = {
            "column": np.array([self.column]), "location": location, "spread": spread, "bps": np.array(1e4),
            "floor": np.array(FLOOR_BPS), "intercept": intercepts[:1], "log_scale": intercepts[1:],
            "at": at, "factors": factors[:, None], "none": np.array(0.0), "all": np.array(1.0),
            "level_at": level_at, "level_factors": level_factors[:, None], "lowest": KNOTS[:1],
            "median_at": np.array(median), "last": np.array([2]),
        }  # fmt: skip
        node = helper.make_node
        nodes = [
            node("Gather", ["features", "column"], ["volatility"], axis=1),
            node("Mul", ["volatility", "bps"], ["volatility_bps"]),
            node("Max", ["volatility_bps", "floor"], ["bounded"]),
            node("Log", ["bounded"], ["offset"]),
            node("MatMul", ["features", "location"], ["shift"]),
            node("Add", ["offset", "shift"], ["shifted"]),
            node("Add", ["shifted", "intercept"], ["mu"]),
            node("MatMul", ["features", "spread"], ["spread_sum"]),
            node("Add", ["spread_sum", "log_scale"], ["log_sigma"]),
            node("Exp", ["log_sigma"], ["sigma"]),
            node("Log", ["spike_bps"], ["log_size"]),
            node("Sub", ["log_size", "mu"], ["distance"]),
            node("Div", ["distance", "sigma"], ["u"]),
            node("Sub", ["u", "at"], ["beyond"]),
            node("Relu", ["beyond"], ["hinge"]),
            node("MatMul", ["hinge", "factors"], ["below"]),
            node("Sub", ["all", "below"], ["above"]),
            node("Clip", ["above", "none", "all"], ["share"]),
            node("LessOrEqual", ["spike_bps", "floor"], ["is_floor"]),
            node("Where", ["is_floor", "all", "share"], ["probability"]),
            node("Mul", ["sigma", "median_at"], ["median_shift"]),
            node("Add", ["mu", "median_shift"], ["log_median"]),
            node("Exp", ["log_median"], ["median"]),
            node("Max", ["median", "floor"], ["median_bps"]),
            node("Unsqueeze", ["levels", "last"], ["deep"]),
            node("Sub", ["deep", "level_at"], ["level_beyond"]),
            node("Relu", ["level_beyond"], ["level_hinge"]),
            node("MatMul", ["level_hinge", "level_factors"], ["deep_rise"]),
            node("Squeeze", ["deep_rise", "last"], ["rise"]),
            node("Add", ["rise", "lowest"], ["residual"]),
            node("Mul", ["residual", "sigma"], ["quantile_shift"]),
            node("Add", ["quantile_shift", "mu"], ["log_quantile"]),
            node("Exp", ["log_quantile"], ["quantile"]),
            node("Max", ["quantile", "floor"], ["quantile_bps"]),
        ]
        change(nodes)
        values = [
            helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["rows", size])
            for name, size in (("features", len(self.schema)), ("spike_bps", 1), ("levels", "levels"))
        ]
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["rows", size])
            for name, size in (("probability", 1), ("median_bps", 1), ("quantile_bps", "levels"))
        ]
        tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, "forecast", values, outputs, tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def forecast_of(schema: FeatureSchema) -> ManifestForecast:
    """What the manifest says about the forecast; only full/2 has the trailing hour."""
    trailing = TRAILING if TRAILING in schema.names else ""
    return ManifestForecast(60.0, 5.0, FLOOR_BPS, SPIKE_BPS, SIZES, trailing, MULTIPLES if trailing else None)


def write_forecast(
    models: Path,
    name: str = "volatility",
    version: str = "1",
    *,
    seed: int = 1,
    schema: FeatureSchema = CORE_1,
    threshold: float = 0.5,
    graph: onnx.ModelProto | None = None,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> Path:
    """Writes `<models>/<name>/<version>` with a forecast model. graph, change: the defects of this bundle."""
    model = Forecaster(seed, schema)
    row = example_row(schema)
    features = tuple(ManifestFeature(feature.name, feature.unit) for feature in schema.features)

    def with_forecast(manifest: Manifest) -> Manifest:
        probability = float(model.probability(np.array([row]), np.array([SPIKE_BPS]))[0])
        return change(
            msgspec.structs.replace(
                manifest,
                kind="forecast",
                schema=ManifestSchema(schema.name, schema.hash, features),
                self_test=SelfTest(row, probability),
                forecast=forecast_of(schema),
            )
        )

    graph = graph or model.graph()
    return write_bundle(models, name, version, threshold=threshold, graph=graph, change=with_forecast)


def rows_of(schema: FeatureSchema, count: int, seed: int = 0) -> Array:
    """A plausible matrix (count, features)."""
    random = np.random.default_rng(seed)
    return np.asarray(example_row(schema)) * random.uniform(0.5, 2, (count, len(schema)))
