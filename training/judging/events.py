"""Scores of the probability that volatility reaches a spike size, and of alerts at an alert level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, classification_report, confusion_matrix, roc_auc_score

from training.forecasting.distribution import Forecasts
from training.forecasting.kinds import SIZE_LEVELS

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# A probability of 0 or 1 that is wrong would cost infinitely much; scikit-learn's log_loss clips it likewise.
MIN_PROBABILITY = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class EventScores:
    """Of n rows at a spike size, each (n,)."""

    event: Bools  # the outcome reached the size
    probability: Floats
    log_loss: Floats
    brier: Floats


@dataclass(frozen=True, slots=True)
class Detection:
    """How well probabilities rank rows, and alerts at a level. NaN if the rows hold a single class.

    event_rate: share of events, the PR-AUC of random ranks. counts: true negatives, false positives, false negatives,
    true positives. report: scikit-learn's, as a dictionary.
    """

    event_rate: float
    alert_level: float
    pr_auc: float
    roc_auc: float
    f1: float
    precision: float
    recall: float
    counts: tuple[int, int, int, int]
    report: dict[str, Any]


def sizes_bps(training_outcome_bps: Floats, levels: tuple[float, ...] = SIZE_LEVELS) -> Floats:
    """The spike sizes at which forecasts are scored: quantiles of the training outcomes, (levels,)."""
    return np.asarray(np.quantile(training_outcome_bps, levels), dtype=np.float64)


def event_scores(forecasts: Forecasts, outcome_bps: Floats, size_bps: float | Floats) -> EventScores:
    """size_bps: positive; a number, or a size for each row (n,)."""
    event = np.asarray(outcome_bps >= size_bps)
    probability = forecasts.exceedance(size_bps)
    return EventScores(event, probability, log_loss(event, probability), brier(event, probability))


def log_loss(event: Bools, probability: Floats) -> Floats:
    """Minus the logarithm of the probability of the observed class, (n,), in nats."""
    observed = np.where(event, probability, 1 - probability)
    return np.asarray(-np.log(np.clip(observed, MIN_PROBABILITY, 1)), dtype=np.float64)


def brier(event: Bools, probability: Floats) -> Floats:
    """The squared error of the probability, (n,)."""
    return np.asarray(np.square(event - probability), dtype=np.float64)


def detection(event: Bools, probability: Floats, alert_level: float) -> Detection:
    """An alert is a probability of at least alert_level. Precision without an alert is 0."""
    alert = probability >= alert_level
    true_negative, false_positive, false_negative, true_positive = (
        int(count) for count in confusion_matrix(event, alert, labels=[False, True]).ravel()
    )
    report = classification_report(
        event, alert, labels=[False, True], target_names=["calm", "spike"], output_dict=True, zero_division=0.0
    )
    both = bool(event.any() and not event.all())
    return Detection(
        event_rate=float(event.mean()),
        alert_level=alert_level,
        pr_auc=float(average_precision_score(event, probability)) if both else float("nan"),
        roc_auc=float(roc_auc_score(event, probability)) if both else float("nan"),
        f1=float(report["spike"]["f1-score"]),
        precision=float(report["spike"]["precision"]),
        recall=float(report["spike"]["recall"]),
        counts=(true_negative, false_positive, false_negative, true_positive),
        report=report,
    )
