"""Alerts of the models of an evaluation, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.judging.alerts import (
    Sweep,
    alert_levels,
    caught_difference,
    caught_share,
    cost_curve,
    operation,
    sweep,
)
from training.judging.blocks import Blocks
from training.judging.comparison import Interval
from training.judging.evaluation_result import AlertEval, CostEval, EvalSettings
from training.judging.part_scores import KindScores, PartScores

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

AT_BUDGET = {False: "caught_at_budget", True: "caught_at_budget_of_multiple"}


@dataclass(frozen=True, slots=True)
class AlertSweeps:
    """Counts at every alert level: kind -> a sweep of each part.

    of_multiple: at a multiple of the trailing hour, instead of the served size.
    """

    of_multiple: bool
    kinds: dict[str, list[Sweep]]


def alert_sweeps(parts: Sequence[PartScores], compared: Sequence[str]) -> list[AlertSweeps]:
    """At the served size and, if schema and models have it, at the multiple. compared: the models to sweep."""
    results = []
    for of_multiple in (False, True):
        kinds = {}
        for kind in compared:
            pairs = [_events(scores, scores.kinds[kind], of_multiple) for scores in parts]
            known = [pair for pair in pairs if pair is not None]
            if len(known) == len(parts):
                levels = alert_levels(np.concatenate([probability for _, probability in known]))
                kinds[kind] = [
                    sweep(scores.line, event, probability, levels, scores.blocks)
                    for scores, (event, probability) in zip(parts, known, strict=True)
                ]
        if kinds:
            results.append(AlertSweeps(of_multiple, kinds))
    return results


def part_alerts(
    scores: PartScores, sweeps: Sequence[AlertSweeps], settings: EvalSettings
) -> dict[str, tuple[AlertEval, AlertEval | None]]:
    """kind -> alerts at the served size, and at the multiple.

    sweeps: of all parts if this is the last, which has budget and cost curve; else empty.
    """
    results = {}
    for kind, of_kind in scores.kinds.items():
        at_size = _alerts(scores, kind, of_kind, sweeps, settings, of_multiple=False)
        assert at_size is not None
        results[kind] = at_size, _alerts(scores, kind, of_kind, sweeps, settings, of_multiple=True)
    return results


def caught_differences(
    sweeps: Sequence[AlertSweeps], places: slice, compared: Sequence[str], settings: EvalSettings
) -> dict[str, Interval]:
    """Share of episodes caught in advance at the budget, first model minus second, on these parts together."""
    differences = {}
    for each in sweeps:
        if len(compared) == 2 and all(kind in each.kinds for kind in compared):
            mine, theirs = (_together(each.kinds[kind][places]) for kind in compared)
            if mine.episodes.any():
                differences[AT_BUDGET[each.of_multiple]] = caught_difference(
                    mine, theirs, settings.false_per_hour, _blocks(mine), settings.seed
                )
    return differences


def _alerts(
    scores: PartScores,
    kind: str,
    of_kind: KindScores,
    sweeps: Sequence[AlertSweeps],
    settings: EvalSettings,
    *,
    of_multiple: bool,
) -> AlertEval | None:
    pair = _events(scores, of_kind, of_multiple)
    if pair is None:
        return None
    at_level = operation(scores.line, *pair, settings.alert_level)
    swept = next((each.kinds[kind] for each in sweeps if each.of_multiple == of_multiple and kind in each.kinds), None)
    with_events = swept is not None and bool(swept[-1].episodes.any())
    return AlertEval(
        alert_level=at_level.level,
        episodes=at_level.episodes,
        caught_in_advance=at_level.caught_share if at_level.episodes else None,
        alarms_per_hour=at_level.alarms_per_hour,
        false_alarms_per_hour=at_level.false_alarms_per_hour,
        lead_s=at_level.lead_s,
        caught_at_budget=_caught(swept[-1], settings) if swept and with_events else None,
        cost_curve=_cost_curve(swept) if swept else None,
    )


def _events(scores: PartScores, of_kind: KindScores, of_multiple: bool) -> tuple[Bools, Floats] | None:
    """Events and probabilities, (n,) each."""
    if not of_multiple:
        return scores.event, of_kind.probability
    if scores.event_of_multiple is None or of_kind.of_multiple is None:
        return None
    return scores.event_of_multiple, of_kind.of_multiple


def _caught(swept: Sweep, settings: EvalSettings) -> Interval:
    return caught_share(swept, settings.false_per_hour, _blocks(swept), settings.seed)


def _cost_curve(swept: Sequence[Sweep]) -> CostEval | None:
    """Of the last part, with levels chosen on the parts before it; of a single part, on its first half."""
    *earlier, scored = swept
    chosen_on = "earlier parts"
    if not earlier:
        chosen_on, half = "first half", len(scored.hours) // 2
        if not half:
            return None
        earlier, scored = [_of_blocks(scored, slice(None, half))], _of_blocks(scored, slice(half, None))
    curve = cost_curve(_together(earlier), scored)
    return CostEval(
        chosen_on=chosen_on,
        ratios=tuple(curve.ratios.tolist()),
        levels=tuple(level if np.isfinite(level) else None for level in curve.levels.tolist()),
        cost=tuple(curve.cost.tolist()),
        always=tuple(curve.always.tolist()),
        perfect=tuple(curve.perfect.tolist()),
    )


def _together(sweeps: Sequence[Sweep]) -> Sweep:
    """The blocks of all sweeps, which share their levels."""
    counts = (
        np.concatenate([getattr(each, name) for each in sweeps], axis=-1)
        for name in ("alarms", "false_alarms", "caught", "episodes", "hours")
    )
    return Sweep(sweeps[0].levels, *counts)


def _of_blocks(swept: Sweep, blocks: slice) -> Sweep:
    return Sweep(
        swept.levels,
        swept.alarms[:, blocks],
        swept.false_alarms[:, blocks],
        swept.caught[:, blocks],
        swept.episodes[blocks],
        swept.hours[blocks],
    )


def _blocks(swept: Sweep) -> Blocks:
    """As many blocks as the sweep counts, for drawing."""
    return Blocks(np.empty(0, np.int64), len(swept.hours))
