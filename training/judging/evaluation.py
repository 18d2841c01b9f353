"""Scores of forecasts on parts of a data set, next to every baseline. No file, no clock: same rows, same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from training.forecasting.kinds import HAR
from training.judging.blocks import Blocks
from training.judging.comparison import (
    Interval,
    RowGroups,
    differences_by,
    mean_difference,
    pr_auc_difference,
)
from training.judging.episodes import NS_PER_S
from training.judging.evaluation_alerts import AlertSweeps, alert_sweeps, caught_differences, part_alerts
from training.judging.evaluation_result import (
    AlertEval,
    Confusion,
    Difference,
    EvalSettings,
    FoldsEval,
    GroupEval,
    GroupingEval,
    KindEval,
    ModelEval,
    PartEval,
)
from training.judging.part_scores import (
    DECIDING,
    GROUPED,
    KindScores,
    PartScores,
    ScoredRows,
    rank_scores,
    score_part,
)

Progress = Callable[[str], None]

OLD_REFERENCES = ("har_logit",)  # HAR's name in bundles of earlier versions
MORE_IS_BETTER = ("pr_auc", "caught_at_budget", "caught_at_budget_of_multiple")


def evaluate_parts(
    parts: Sequence[ScoredRows], kind: str, settings: EvalSettings, *, progress: Progress = lambda step: None
) -> ModelEval:
    """Evaluates each part, with `kind` against the baselines; parts named "fold …" are evaluated together too.

    Raises InputError if there is no part, a part has no row, or a part has no forecasts of `kind`.
    """
    if not parts:
        raise InputError("nothing to evaluate: no part was given")
    reference = next((name for name in (HAR, *OLD_REFERENCES) if name in parts[0].forecasts), None)
    scored = []
    for part in parts:
        progress(f"{part.name}: {len(part.rows):,} rows, {len(part.forecasts)} models")
        scored.append(score_part(part, kind, settings))
    progress("alerts")
    compared = tuple(dict.fromkeys(name for name in (kind, reference) if name))
    sweeps = alert_sweeps(scored, compared)
    folds = [scores for scores in scored if scores.part.name.startswith("fold")]
    return ModelEval(
        kind=kind,
        reference=reference,
        settings=settings,
        parts=(
            *(_part(scores, compared, reference, settings) for scores in scored[:-1]),
            _part(scored[-1], compared, reference, settings, sweeps),
        ),
        walk_forward=_folds(folds, reference, settings, _caught(sweeps, slice(len(folds)), compared, settings))
        if folds
        else None,
    )


def _part(
    scores: PartScores,
    compared: tuple[str, ...],
    reference: str | None,
    settings: EvalSettings,
    sweeps: Sequence[AlertSweeps] = (),
) -> PartEval:
    """sweeps: of all parts if this is the last part."""
    rows = scores.part.rows
    alerts = part_alerts(scores, sweeps, settings)
    return PartEval(
        name=scores.part.name,
        start_ns=int(rows.time_ns.min()),
        end_ns=int(rows.time_ns.max()),
        rows=len(rows),
        events=int(scores.event.sum()),
        observed_hours=scores.line.hours,
        blocks=scores.blocks.count,
        spike_bps=settings.spike_bps,
        base_rate=scores.base_rate,
        sizes=scores.sizes,
        models={name: _kind(of_kind, *alerts[name]) for name, of_kind in scores.kinds.items()},
        differences=(
            *_differences([scores], reference, settings),
            *_caught(sweeps, slice(-1, None), compared, settings),
        ),
        groupings=tuple(_grouping(scores, groups, compared, settings) for groups in scores.groups),
    )


def _kind(scores: KindScores, alerts: AlertEval, of_multiple: AlertEval | None) -> KindEval:
    true_negatives, false_positives, false_negatives, true_positives = scores.detection.counts
    return KindEval(
        metrics=scores.metrics,
        confusion=Confusion(true_positives, false_positives, false_negatives, true_negatives),
        classification_report=scores.detection.report,
        alerts=alerts,
        alerts_of_multiple=of_multiple,
        pit=scores.pit,
    )


def _differences(parts: Sequence[PartScores], reference: str | None, settings: EvalSettings) -> list[Difference]:
    """Every model minus the reference, over the rows of all parts together; PR-AUC: the mean over the parts."""
    if reference is None:
        return []
    times = np.concatenate([scores.part.rows.time_ns for scores in parts])
    blocks = Blocks.of(times, int(settings.block_s * NS_PER_S))
    results = []
    for name in parts[0].kinds:
        if name == reference:
            continue
        pairs = [(scores.kinds[name], scores.kinds[reference]) for scores in parts]
        for metric in DECIDING:
            if all(metric in each.rows for pair in pairs for each in pair):
                mine, theirs = (np.concatenate([pair[side].rows[metric] for pair in pairs]) for side in (0, 1))
                interval = mean_difference(mine, theirs, blocks, settings.seed)
                results.append(_difference(name, reference, metric, interval))
        ranked = [(mine.pr_auc, theirs.pr_auc) for mine, theirs in pairs if mine.pr_auc and theirs.pr_auc]
        if ranked:
            interval = pr_auc_difference([mine for mine, _ in ranked], [theirs for _, theirs in ranked])
            results.append(_difference(name, reference, "pr_auc", interval))
    return results


def _caught(
    sweeps: Sequence[AlertSweeps], places: slice, compared: tuple[str, ...], settings: EvalSettings
) -> list[Difference]:
    intervals = caught_differences(sweeps, places, compared, settings)
    return [_difference(compared[0], compared[1], metric, interval) for metric, interval in intervals.items()]


def _difference(model: str, reference: str, metric: str, interval: Interval) -> Difference:
    higher, lower = interval.lies_above(0), interval.lies_below(0)
    better = higher if metric in MORE_IS_BETTER else lower
    return Difference(model, reference, metric, interval, better if higher or lower else None)


def _grouping(scores: PartScores, groups: RowGroups, compared: tuple[str, ...], settings: EvalSettings) -> GroupingEval:
    kinds = {name: scores.kinds[name] for name in compared}
    metric = DECIDING[0] if all(DECIDING[0] in each.rows for each in kinds.values()) else "log_loss"
    intervals: dict[str, Interval] = {}
    if len(compared) == 2:
        mine, theirs = (each.rows[metric] for each in kinds.values())
        results = differences_by(groups, mine, theirs, scores.blocks, settings.seed)
        intervals = {each.name: each.difference for each in results}
    with_rows = [(place, name) for place, name in enumerate(groups.names) if (groups.of_row == place).any()]
    return GroupingEval(
        by=groups.by,
        metric=metric,
        groups=tuple(
            _group(scores, kinds, name, np.flatnonzero(groups.of_row == place), intervals.get(name))
            for place, name in with_rows
        ),
    )


def _group(
    scores: PartScores, kinds: dict[str, KindScores], name: str, rows: NDArray[np.int64], difference: Interval | None
) -> GroupEval:
    event = scores.event[rows]
    models = {}
    for kind, each in kinds.items():
        metrics = {metric: float(each.rows[metric][rows].mean()) for metric in GROUPED if metric in each.rows}
        if event.any() and not event.all():
            metrics["pr_auc"], _ = rank_scores(event, each.probability[rows])
        models[kind] = metrics
    return GroupEval(name, len(rows), int(event.sum()), models, difference)


def _folds(
    folds: Sequence[PartScores], reference: str | None, settings: EvalSettings, caught: Sequence[Difference]
) -> FoldsEval:
    rows = np.array([len(scores.part.rows) for scores in folds])
    models: dict[str, dict[str, float]] = {}
    for kind in folds[0].kinds:
        of_folds = [scores.kinds[kind].metrics for scores in folds]
        models[kind] = {}
        for metric in dict.fromkeys(name for metrics in of_folds for name in metrics):
            defined = [place for place, metrics in enumerate(of_folds) if metric in metrics]
            values = [of_folds[place][metric] for place in defined]
            models[kind][metric] = float(np.average(values, weights=rows[defined]))
    return FoldsEval(
        folds=len(folds),
        rows=int(rows.sum()),
        models=models,
        differences=(*_differences(folds, reference, settings), *caught),
    )
