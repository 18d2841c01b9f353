"""Scores of probabilities of a rare event, by scikit-learn. training.judging.evaluation has their intervals.

PR-AUC is average precision (scikit-learn's step sum, no interpolation). Lift is PR-AUC over the base
rate, which is what random ranks score. Brier skill is 1 − Brier / Brier of a constant forecast
(Murphy 1973, "A new vector partition of the probability score", Journal of Applied Meteorology 12),
against two constants: climatology, the rate of spikes in the training rows that τ was taken from,
known beforehand; and the scored rows' own rate, known to nobody and so the harder one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
)


def evaluate(
    y: NDArray[np.int8], probability: NDArray[np.float64], threshold: float, climatology: float
) -> dict[str, float]:
    """Metrics over (rows,). A row is an alert where its probability >= threshold.

    What only both classes together define (ranks, recall, skill against the rows' own rate) is left
    out where y holds one class.
    """
    brier = brier_score_loss(y, probability, pos_label=1)
    alert = probability >= threshold
    values = {
        "base_rate": np.mean(y),
        "mean_probability": np.mean(probability),
        "brier": brier,
        "brier_skill": 1 - brier / np.mean(np.square(y - climatology)),
        "log_loss": log_loss(y, probability, labels=[0, 1]),
        "alert_rate": np.mean(alert),
    }
    if 0 < np.mean(y) < 1:
        values |= _of_both_classes(y, probability, alert)
    return {name: float(value) for name, value in values.items()}


def _of_both_classes(
    y: NDArray[np.int8], probability: NDArray[np.float64], alert: NDArray[np.bool_]
) -> dict[str, float]:
    pr_auc = average_precision_score(y, probability)
    return {
        "pr_auc": pr_auc,
        "pr_auc_lift": pr_auc / np.mean(y),
        "roc_auc": roc_auc_score(y, probability),
        "brier_skill_own_rate": 1 - brier_score_loss(y, probability) / np.var(y),
        "precision": precision_score(y, alert, zero_division=0.0),
        "recall": recall_score(y, alert),
        "f1": f1_score(y, alert, zero_division=0.0),
    }


def mean_of_folds(folds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each metric's mean over the folds that define it, and how many folds there are and hold a spike."""
    names = dict.fromkeys(name for fold in folds for name in fold)
    means = {name: float(np.mean([fold[name] for fold in folds if name in fold])) for name in names}
    return means | {"folds": len(folds), "folds_with_spikes": sum("pr_auc" in fold for fold in folds)}


def best_f1_threshold(y: NDArray[np.int8], probability: NDArray[np.float64]) -> float:
    """The threshold with the highest F1 on (rows,), down to a millionth; meant for validation rows only."""
    precision, recall, thresholds = precision_recall_curve(y, probability)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return float(np.floor(thresholds[np.argmax(f1[:-1])] * 1e6) / 1e6)
