"""A few scores of every kind, by name: what the manifest records and `volcast train` prints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import average_precision_score

from training.forecasting.kinds import HAR
from training.forecasting.parts import ForecastPart
from training.judging.blocks import Blocks
from training.judging.comparison import Interval, mean_difference
from training.judging.events import event_scores
from training.judging.scores import Floats, RowScores, covered, row_scores
from training.problem.target import DEFAULT_TARGET, NS_PER_S

Scores = dict[str, dict[str, float]]  # kind -> name -> value
ScoredParts = dict[str, list[RowScores]]  # kind -> scores of the rows of each part

# Kinds that `auto` fits for comparison and never ships. A row of xgboost takes 10.2 to 10.5 µs in ONNX Runtime, and
# gate.max_latency_us is 10. Its mean CRPS on 405,000 pooled rows is 0.0003 better than that of ridge.
COMPARED_ONLY = frozenset({"xgboost"})


def scored_parts(parts: Sequence[ForecastPart]) -> ScoredParts:
    """Every row's scores under every kind. Takes seconds for 100,000 rows: compute them once."""
    return {
        kind: [row_scores(part.forecasts[kind], part.rows.outcome_bps, DEFAULT_TARGET.floor_bps) for part in parts]
        for kind in parts[0].forecasts
    }


def summary(
    parts: Sequence[ForecastPart], spike_bps: float, block_s: float, seed: int, scored: ScoredParts | None = None
) -> Scores:
    """Means over all rows: crps, qlike, coverage_80, coverage_95, and log_loss, brier, pr_auc at spike_bps.

    crps is on log volatility; crps_minus_har has an interval of paired draws of blocks, _low and _high, if there are
    enough blocks. pr_auc is the mean over parts with both classes. scored: scored_parts(parts), if it is known.
    """
    scored = scored or scored_parts(parts)
    blocks, crps = _blocks(parts, block_s), _crps(scored)
    result: Scores = {}
    for kind, scores in scored.items():
        low, high = (np.concatenate([getattr(each, name) for each in scores]) for name in ("pit_low", "pit_high"))
        result[kind] = {
            "crps": float(crps[kind].mean()),
            "qlike": float(np.mean(np.concatenate([each.qlike for each in scores]))),
            "coverage_80": float(covered(low, high, 0.8).mean()),
            "coverage_95": float(covered(low, high, 0.95).mean()),
            **_at_size(parts, kind, spike_bps),
        }
        if kind != HAR and HAR in crps:
            result[kind] |= _ends("crps_minus_har", mean_difference(crps[kind], crps[HAR], blocks, seed))
    return result


def best_kind(
    parts: Sequence[ForecastPart], block_s: float, seed: int, scored: ScoredParts | None = None
) -> tuple[str, Interval | None]:
    """The kind that ships, and its lead over HAR in CRPS (None: HAR itself). scored: as for summary.

    Of the kinds outside COMPARED_ONLY, the kind with the smallest mean CRPS ships if it is shown to beat HAR, else HAR.
    """
    crps = _crps(scored or scored_parts(parts))
    best = min((kind for kind in crps if kind not in COMPARED_ONLY), key=lambda kind: float(crps[kind].mean()))
    if best == HAR:
        return HAR, None
    lead = mean_difference(crps[best], crps[HAR], _blocks(parts, block_s), seed)
    return (best, lead) if lead.lies_below(0) else (HAR, None)


def _crps(scored: ScoredParts) -> dict[str, Floats]:
    """kind -> CRPS on log volatility of the rows of all parts, (n,)."""
    return {kind: np.concatenate([each.crps_log for each in scores]) for kind, scores in scored.items()}


def _blocks(parts: Sequence[ForecastPart], block_s: float) -> Blocks:
    return Blocks.of(np.concatenate([part.rows.time_ns for part in parts]), int(block_s * NS_PER_S))


def _at_size(parts: Sequence[ForecastPart], kind: str, spike_bps: float) -> dict[str, float]:
    events = [event_scores(part.forecasts[kind], part.rows.outcome_bps, spike_bps) for part in parts]
    areas = [
        float(average_precision_score(each.event, each.probability))
        for each in events
        if each.event.any() and not each.event.all()
    ]
    values = {
        "log_loss": float(np.mean(np.concatenate([each.log_loss for each in events]))),
        "brier": float(np.mean(np.concatenate([each.brier for each in events]))),
    }
    return values | ({"pr_auc": float(np.mean(areas))} if areas else {})


def _ends(name: str, difference: Interval) -> dict[str, float]:
    values = {name: difference.point}
    if difference.low is not None and difference.high is not None:
        values |= {f"{name}_low": difference.low, f"{name}_high": difference.high}
    return values
