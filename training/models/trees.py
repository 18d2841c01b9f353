"""Gradient boosted trees, on top of a logistic regression or alone.

Trees cannot follow volatility beyond what they have seen: every value above the largest threshold is one
to them. So they start from a linear model over the same features (`base` "linear") and learn what it misses;
with `base` "rate" they start from the rate of spikes, for comparison.

XGBoost compares float32 values with float32 thresholds. The graph is made to do the same: features are
cast to float32 there as they are here before training, so a row falls into the same leaf in both
(docs/decisions/0012: scaled or double inputs put some rows on the other side of a threshold).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from common.bundle import Calibration, LinearForm
from common.schema import FeatureSchema
from training.models import graphs
from training.models.base import IDENTITY, Choice, Fitted, IntRange, LogRange, Params, Space, logit_of_rate, sigmoid
from training.models.linear import FittedLinear, fit_linear
from training.models.transforms import Terms, usable
from training.problem.rows import Rows

BASE_LINEAR, BASE_RATE = "linear", "rate"


@dataclass(frozen=True)
class FittedTrees:
    schema: FeatureSchema
    params: Params
    terms: Terms
    booster: bytes  # XGBoost's own JSON: it travels between processes as it is
    base: FittedLinear | float  # a linear model, or a logit
    calibration: Calibration = IDENTITY
    kind: str = field(default="xgboost")

    @property
    def columns(self) -> tuple[str, ...]:
        return self.terms.names

    @cached_property
    def _booster(self) -> Any:
        return xgboost.Booster({"nthread": 1}, model_file=bytearray(self.booster))

    def logits(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        data = xgboost.DMatrix(tree_inputs(features, self.terms), nthread=1)
        margin = self._booster.predict(data, output_margin=True).astype(np.float64)
        start = self.base if isinstance(self.base, float) else self.base.logits(features)
        return np.asarray(margin + start, dtype=np.float64)

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        return sigmoid(self.calibration.slope * self.logits(features) + self.calibration.intercept)

    def calibrated(self, calibration: Calibration) -> FittedTrees:
        return replace(self, calibration=calibration)

    def on(self, schema: FeatureSchema) -> FittedTrees:
        base = self.base if isinstance(self.base, float) else self.base.on(schema)
        return replace(self, schema=schema, terms=Terms.of(schema, self.terms.names), base=base)

    def to_onnx(self) -> bytes:
        base = self.base if isinstance(self.base, float) else self.base.weights()
        return graphs.tree_graph(self.schema, self.terms, parse_trees(self.booster), base, self.calibration)

    def linear_form(self) -> LinearForm | None:
        return None


@dataclass(frozen=True, slots=True)
class XGBoost:
    name: str = "xgboost"

    def columns(self, schema: FeatureSchema) -> tuple[str, ...]:
        return usable(schema)

    def defaults(self, schema: FeatureSchema) -> Params:
        return {
            "base": BASE_LINEAR,
            "trees": 60,
            "depth": 3,
            "learning_rate": 0.06,
            "min_child_weight": 30.0,
            "subsample": 0.7,
            "colsample": 0.6,
            "l2": 10.0,
        }

    def space(self, schema: FeatureSchema) -> Space:
        # Not `base`: on quiet days of validation the rate is sometimes ahead, in the crash that follows it is not.
        # At most 80 trees of depth 4: more cost a row more than its budget of 10 µs, and gained nothing.
        return {
            "trees": IntRange(20, 80, 20),
            "depth": IntRange(2, 4),
            "learning_rate": LogRange(0.02, 0.2),
            "min_child_weight": LogRange(5.0, 300.0),
            "subsample": Choice((0.5, 0.7, 0.9)),
            "colsample": Choice((0.4, 0.6, 0.8)),
            "l2": LogRange(0.5, 100.0),
        }

    def fit(
        self, rows: Rows, y: NDArray[np.int8], params: Params, seed: int, columns: tuple[str, ...] | None = None
    ) -> Fitted:
        names = columns or self.columns(rows.schema)
        terms = Terms.of(rows.schema, names)
        base: FittedLinear | float = logit_of_rate(y)
        margin = np.full(len(y), base, dtype=np.float32)
        if params["base"] == BASE_LINEAR:
            base = fit_linear("logistic", rows, y, {"C": 0.01}, names)
            margin = base.logits(rows.features).astype(np.float32)
        data = xgboost.DMatrix(tree_inputs(rows.features, terms), label=y, base_margin=margin, nthread=1)
        booster = xgboost.train(_settings(params, seed), data, num_boost_round=int(params["trees"]))
        return FittedTrees(rows.schema, dict(params), terms, bytes(booster.save_raw("json")), base)


def tree_inputs(features: NDArray[np.float64], terms: Terms) -> NDArray[np.float32]:
    """(rows, features of the schema) -> (rows, terms): sizes, rounded to float32 as the graph rounds them."""
    chosen = features[:, terms.index]
    chosen[:, : terms.logs] = np.abs(chosen[:, : terms.logs])
    with np.errstate(over="ignore"):  # beyond float32 is infinite, in the graph as well
        return chosen.astype(np.float32)


def _settings(params: Params, seed: int) -> dict[str, Any]:
    return {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "max_bin": 128,
        "max_depth": int(params["depth"]),
        "eta": float(params["learning_rate"]),
        "min_child_weight": float(params["min_child_weight"]),
        "subsample": float(params["subsample"]),
        "colsample_bytree": float(params["colsample"]),
        "lambda": float(params["l2"]),
        "base_score": 0.5,  # a logit of 0: where to start is said by the margin
        "nthread": 1,  # sums in one order: the same bits each time
        "seed": seed,
        "verbosity": 0,
    }


def parse_trees(booster: bytes) -> graphs.Trees:
    """The trees of XGBoost's JSON as the columns of ONNX's TreeEnsemble; features numbered as the booster does."""
    model = json.loads(booster)["learner"]["gradient_booster"]["model"]
    trees = graphs.Trees()
    for number, tree in enumerate(model["trees"]):
        columns = zip(
            tree["left_children"],
            tree["right_children"],
            tree["split_indices"],
            tree["split_conditions"],
            tree["default_left"],
            strict=True,
        )
        for node, (left, right, feature, value, default_left) in enumerate(columns):
            if left < 0:
                trees.add_leaf(number, node, float(np.float32(value)))
            else:
                trees.add_split(number, node, (left, right), feature, float(np.float32(value)), bool(default_left))
    return trees
