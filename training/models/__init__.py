"""The kinds of model, behind one small interface (base.py): each fits on rows, gives probabilities, exports one graph.

zscore, ewma and har are the baselines that a model has to beat. har_returns is har for a schema of few windows.
logistic and xgboost are the models, which choose among the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from common.paired_difference import HAR_KINDS
from training.models.base import Choice, Fitted, IntRange, Kind, LogRange, Params, Space
from training.models.linear import Ewma, Har, HarReturns, Logistic, ZScore
from training.models.trees import XGBoost

__all__ = [
    "BASELINES",
    "HAR",
    "HAR_KINDS",
    "KINDS",
    "LEARNERS",
    "Choice",
    "Fitted",
    "IntRange",
    "Kind",
    "LogRange",
    "Params",
    "Space",
]

KINDS: Mapping[str, Kind] = MappingProxyType(
    {kind.name: kind for kind in (ZScore(), Ewma(), Har(), HarReturns(), Logistic(), XGBoost())}
)
BASELINES = ("zscore", "ewma", "har")
HAR = "har"  # the baseline that is hardest to beat, and what ships where none is shown to (docs/decisions/0016)
LEARNERS = ("logistic", "xgboost")
