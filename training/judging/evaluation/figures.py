"""Every metric as a function of how often each block of time is drawn.

The value itself is what the blocks as they are give; an interval is the spread over draws. One function
makes both, so they cannot disagree. All metrics are ratios of sums over rows or events, which are added
up by block once and multiplied by the draws, except the two areas, which need the ranks.

- PR-AUC is average precision (scikit-learn's step sum, no interpolation); lift is PR-AUC over the base
  rate, which is what random ranks score. ROC-AUC is the area by trapezoids, ties half right.
- Brier skill is 1 − Brier / Brier of a constant forecast (Murphy 1973, "A new vector partition of the
  probability score", Journal of Applied Meteorology 12), against two constants: climatology, the rate of
  spikes in the training rows that τ was taken from, known beforehand; and the scored rows' own rate,
  known to nobody and so the harder one.
- ECE is Σ |mean probability − rate of spikes| · share of rows, over bins of equal width (Guo, Pleiss, Sun
  and Weinberger 2017, "On calibration of modern neural networks", ICML) and, as `ece_equal_mass`, over bins
  of equal numbers of rows, which a rare event does not leave empty (Nguyen and O'Connor 2015, EMNLP).
- Precision, recall and F1 count rows; an alert is a probability >= the threshold. Episodes and alarms are
  events: episodes.py says what they are.

A metric that the rows do not define (ranks where there is one class, precision without an alert) is NaN
here and absent from what is reported.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.judging.evaluation import kernels
from training.judging.evaluation.blocks import Blocks
from training.judging.evaluation.episodes import Alarms, Line, alarms

ECE_BINS = 15

# Metric -> (its name, 1 where more is better, -1 where less is, 0 where neither).
METRICS: dict[str, tuple[str, int]] = {
    "base_rate": ("base rate", 0),
    "pr_auc": ("PR-AUC", 1),
    "pr_auc_lift": ("lift over base rate", 1),
    "roc_auc": ("ROC-AUC", 1),
    "brier": ("Brier", -1),
    "brier_skill": ("Brier skill, climatology", 1),
    "brier_skill_own_rate": ("Brier skill, own base rate", 1),
    "log_loss": ("log loss", -1),
    "ece": ("ECE", -1),
    "ece_equal_mass": ("ECE, bins of equal mass", -1),
    "mean_probability": ("mean probability", 0),
    "precision": ("precision", 1),
    "recall": ("recall", 1),
    "f1": ("F1", 1),
    "alert_rate": ("share of alerts", 0),
    "episodes_caught": ("episodes caught", 1),
    "episodes_caught_in_advance": ("episodes caught in advance", 1),
    "lead_time_s": ("median lead time, s", 1),
    "alarms_per_hour": ("alarms an hour", 0),
    "false_alarms_per_hour": ("false alarms an hour", -1),
    "budget_precision": ("precision at the budget", 1),
    "budget_recall": ("recall at the budget", 1),
    "budget_f1": ("F1 at the budget", 1),
    "budget_episodes_caught": ("episodes caught at the budget", 1),
    "budget_episodes_caught_in_advance": ("episodes caught in advance at the budget", 1),
    "budget_alarms_per_hour": ("alarms an hour at the budget", 0),
    "budget_false_alarms_per_hour": ("false alarms an hour at the budget", -1),
}

Samples = dict[str, NDArray[np.float64]]  # metric -> (draws,), NaN where that draw does not define it


@dataclass(frozen=True, slots=True)
class Forecast:
    """Probabilities of rows and what became of them, (rows,) each."""

    y: NDArray[np.int8]
    probability: NDArray[np.float64]
    climatology: float
    threshold: float  # of alerts
    budget_threshold: float | None = None


def figures(forecast: Forecast, line: Line, blocks: Blocks, draws: NDArray[np.float64]) -> Samples:
    """All metrics under each of the draws (draws, blocks)."""
    return row_figures(forecast, blocks, draws) | event_figures(forecast, line, blocks, draws)


def row_figures(forecast: Forecast, blocks: Blocks, draws: NDArray[np.float64]) -> Samples:
    """Metrics that count rows."""
    y, p = forecast.y.astype(np.float64), forecast.probability
    alert = (p >= forecast.threshold).astype(np.float64)
    columns = {
        "rows": np.ones(len(y)),
        "spikes": y,
        "probability": p,
        "squares": np.square(p - y),
        "climatology": np.square(forecast.climatology - y),
        "log_loss": _log_losses(y, p),
        "alerts": alert,
        "hits": alert * y,
    }
    sums = dict(zip(columns, (draws @ blocks.sums(np.column_stack(list(columns.values())))).T, strict=True))
    rows, rate = sums["rows"], sums["spikes"] / sums["rows"]
    brier = sums["squares"] / rows
    pr_auc, roc_auc = areas(forecast.y, p, blocks.of_row, draws)
    samples = {
        "base_rate": rate,
        "pr_auc": pr_auc,
        "pr_auc_lift": _ratio(pr_auc, rate),
        "roc_auc": roc_auc,
        "brier": brier,
        "brier_skill": 1 - _ratio(sums["squares"], sums["climatology"]),
        "brier_skill_own_rate": 1 - _ratio(brier, rate * (1 - rate)),
        "log_loss": sums["log_loss"] / rows,
        "ece": _ece(y, p, equal_width_edges(), blocks, draws),
        "ece_equal_mass": _ece(y, p, equal_mass_edges(p), blocks, draws),
        "mean_probability": sums["probability"] / rows,
        "alert_rate": sums["alerts"] / rows,
    } | _precision_recall("", sums["hits"], sums["alerts"], sums["spikes"])
    if forecast.budget_threshold is not None:
        alert = (p >= forecast.budget_threshold).astype(np.float64)
        hits, alerts = (draws @ blocks.sums(np.column_stack([alert * y, alert]))).T
        samples |= _precision_recall("budget_", hits, alerts, sums["spikes"])
    return samples


def _precision_recall(
    prefix: str, hits: NDArray[np.float64], alerts: NDArray[np.float64], spikes: NDArray[np.float64]
) -> Samples:
    return {
        f"{prefix}precision": _ratio(hits, alerts),
        f"{prefix}recall": _ratio(hits, spikes),
        f"{prefix}f1": np.where(spikes > 0, _ratio(2 * hits, alerts + spikes), np.nan),
    }


def event_figures(forecast: Forecast, line: Line, blocks: Blocks, draws: NDArray[np.float64]) -> Samples:
    """Metrics that count episodes and alarms; an event belongs to the block that it begins in."""
    found = alarms(line, forecast.y, forecast.probability >= forecast.threshold)
    block = blocks.of_row[line.order]
    hours = (draws @ blocks.sums(line.seconds[:, None], block)).T[0] / 3600
    samples = _counts("", found, block, blocks, draws, hours)
    samples["lead_time_s"] = _weighted_median(found.lead_s, draws[:, block[found.episodes.first]])
    if forecast.budget_threshold is not None:
        found = alarms(line, forecast.y, forecast.probability >= forecast.budget_threshold)
        samples |= _counts("budget_", found, block, blocks, draws, hours)
    return samples


def _counts(
    prefix: str,
    found: Alarms,
    block: NDArray[np.int64],
    blocks: Blocks,
    draws: NDArray[np.float64],
    hours: NDArray[np.float64],
) -> Samples:
    caught = ~np.isnan(found.lead_s)
    by_episode = np.column_stack([np.ones(len(caught)), caught, np.nan_to_num(found.lead_s, nan=-1.0) > 0])
    by_alarm = np.column_stack([np.ones(len(found.raised)), found.false])
    episodes, hit, early = (draws @ blocks.sums(by_episode.astype(np.float64), block[found.episodes.first])).T
    raised, false = (draws @ blocks.sums(by_alarm.astype(np.float64), block[found.raised])).T
    return {
        f"{prefix}episodes_caught": _ratio(hit, episodes),
        f"{prefix}episodes_caught_in_advance": _ratio(early, episodes),
        f"{prefix}alarms_per_hour": _ratio(raised, hours),
        f"{prefix}false_alarms_per_hour": _ratio(false, hours),
    }


def areas(
    y: NDArray[np.int8], probability: NDArray[np.float64], block: NDArray[np.int64], draws: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """PR-AUC and ROC-AUC of rows (rows,) weighted by how often their block is drawn, (draws,) each.

    NaN where a draw holds no spike, or nothing but spikes: any order of such rows would score 1.
    """
    order = np.argsort(-probability, kind="stable")
    ends_tie = np.append(np.diff(probability[order]) != 0, True)
    pr_auc, roc_auc = np.empty(len(draws)), np.empty(len(draws))
    kernels.areas()(
        y[order] == 1, block[order].astype(np.int64), ends_tie, np.ascontiguousarray(draws.T), pr_auc, roc_auc
    )
    return pr_auc, roc_auc


def equal_width_edges(bins: int = ECE_BINS) -> NDArray[np.float64]:
    """Inner edges of bins over [0, 1], (bins - 1,); a value on an edge is in the bin above."""
    return np.linspace(0, 1, bins + 1)[1:-1]


def equal_mass_edges(probability: NDArray[np.float64], bins: int = ECE_BINS) -> NDArray[np.float64]:
    """Inner edges between equal numbers of rows, fewer where many are the same."""
    return np.unique(np.quantile(probability, np.linspace(0, 1, bins + 1)[1:-1]))


def bin_sums(
    y: NDArray[np.float64],
    probability: NDArray[np.float64],
    edges: NDArray[np.float64],
    blocks: Blocks,
    draws: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rows, sums of probabilities and spikes in each bin under each draw, (draws, bins) each."""
    bins = len(edges) + 1
    cell = blocks.of_row * bins + np.searchsorted(edges, probability, side="right")
    cells = blocks.count * bins
    rows, probabilities, spikes = (
        draws @ np.bincount(cell, weights=one, minlength=cells).reshape(blocks.count, bins)
        for one in (np.ones(len(y)), probability, y)
    )
    return rows, probabilities, spikes


def _ece(
    y: NDArray[np.float64],
    probability: NDArray[np.float64],
    edges: NDArray[np.float64],
    blocks: Blocks,
    draws: NDArray[np.float64],
) -> NDArray[np.float64]:
    rows, probabilities, spikes = bin_sums(y, probability, edges, blocks, draws)
    error: NDArray[np.float64] = np.abs(probabilities - spikes).sum(axis=1) / rows.sum(axis=1)
    return error


def _log_losses(y: NDArray[np.float64], probability: NDArray[np.float64]) -> NDArray[np.float64]:
    # Clipped as scikit-learn does, so that one sure and wrong row does not make it infinite.
    tiny = np.finfo(np.float64).eps
    sure = np.clip(probability, tiny, 1 - tiny)
    losses: NDArray[np.float64] = -(y * np.log(sure) + (1 - y) * np.log1p(-sure))
    return losses


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return ratio


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lower median of (n,) under each row of weights (draws, n), leaving NaN out; (draws,)."""
    order = np.argsort(values)[: int(np.count_nonzero(~np.isnan(values)))]
    if len(order) == 0:
        return np.full(len(weights), np.nan)
    running = np.cumsum(weights[:, order], axis=1)
    place = np.argmax(running >= running[:, -1:] / 2, axis=1)
    return np.where(running[:, -1] > 0, values[order][place], np.nan)
