"""The kinds of model, behind one small interface (base.py): each fits on rows, gives probabilities, exports one graph.

zscore, ewma and har are the baselines that a model has to beat; logistic and xgboost are the models.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from training.models.base import Choice, Fitted, IntRange, Kind, LogRange, Params, Space
from training.models.linear import Ewma, Har, Logistic, ZScore
from training.models.trees import XGBoost

__all__ = ["BASELINES", "KINDS", "Choice", "Fitted", "IntRange", "Kind", "LogRange", "Params", "Space"]

KINDS: Mapping[str, Kind] = MappingProxyType(
    {kind.name: kind for kind in (ZScore(), Ewma(), Har(), Logistic(), XGBoost())}
)
BASELINES = ("zscore", "ewma", "har")
