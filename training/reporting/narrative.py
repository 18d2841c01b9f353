"""An evaluation in plain words, the same in the terminal, the report and the model card."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from common.paired_difference import model_name
from training.judging.class_counts import MIN_ROWS_PER_CLASS, part_text, too_few, unranked
from training.judging.evaluation.episodes import NS_PER_S
from training.judging.evaluation.figures import METRICS
from training.judging.evaluation.result import Difference, Figure, Grouping, Means, ModelEval

COMPARED = ("roc_auc", "brier", "log_loss", "ece", "f1")  # beside PR-AUC, where a baseline may have the better one
OF_BOTH_CLASSES = ("roc_auc", "f1")  # of these, those that say nothing without rows of both classes
DRAWN = ("day", "hour", "regime")  # groupings of which there is a picture
GOOD_ECE = 0.03  # what the project holds itself to


def metric_name(metric: str) -> str:
    return METRICS[metric][0]


def number(value: float) -> str:
    """Four digits that matter, without an exponent where a person would not use one."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 1:
        return f"{value:.2f}"
    return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.2g}"


def interval_text(figure: Figure | Difference, signed: bool = False) -> str:
    if figure.low is None or figure.high is None:
        return "not known"
    sign = "+" if signed else ""
    return f"{figure.low:{sign}.3f} to {figure.high:{sign}.3f}"


def span_text(start_ns: int, end_ns: int) -> str:
    start, end = (datetime.fromtimestamp(one // NS_PER_S, UTC) for one in (start_ns, end_ns))
    same = start.date() == end.date()
    return f"{start:%Y-%m-%d %H:%M} to {end:{'%H:%M' if same else '%Y-%m-%d %H:%M'}} UTC"


def first(evaluation: ModelEval) -> str:
    """What a reader must be told before any figure; "" where there is nothing."""
    part = evaluation.headline
    return unranked([(part.name, part.rows, part.positives)])


def notes(evaluation: ModelEval) -> list[str]:
    """The notes, without what is told first."""
    return [one for one in evaluation.notes if one != first(evaluation)]


def without_bars(grouping: Grouping) -> list[str]:
    """Which groups have no bar in the picture and why, a sentence each."""
    if grouping.by not in DRAWN:
        return []
    thin = [one for one in grouping.groups if too_few(one.rows, one.positives)]
    found = []
    if thin and len(thin) == len(grouping.groups):
        found.append(f"No picture: no group has {MIN_ROWS_PER_CLASS} rows of each class")
    elif thin:
        which = ", ".join(f"{one.name} ({too_few(one.rows, one.positives)})" for one in thin)
        found.append(f"No bar, for want of {MIN_ROWS_PER_CLASS} rows of each class: {which}")
    if grouping.by == "hour":
        seen = {one.name for one in grouping.groups}
        empty = [hour for hour in range(24) if f"{hour:02d}" not in seen]
        if empty:
            found.append(f"No row at all in {len(empty)} of the 24 hours: {_runs(empty)}")
    return found


def _runs(hours: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for hour in hours:
        if runs and hour == runs[-1][-1] + 1:
            runs[-1].append(hour)
        else:
            runs.append([hour])
    return ", ".join(f"{run[0]:02d}" if len(run) == 1 else f"{run[0]:02d} to {run[-1]:02d}" for run in runs)


def findings(evaluation: ModelEval) -> list[str]:
    """What the evaluation comes to, the bad with the good: a sentence each, without a full stop."""
    part, primary = evaluation.headline, evaluation.primary
    found = [] if first(evaluation) else standings(part.differences, primary)
    if evaluation.walk_forward is not None:
        found += [
            f"On the folds' mean, {one}"
            for one in standings(evaluation.walk_forward.differences, primary, only=evaluation.reference)
        ]
    return [*found, *weaknesses(evaluation)]


def standings(differences: Sequence[Difference], primary: str, only: str | None = None) -> list[str]:
    """How the model stands by PR-AUC against each other."""
    lines = []
    for one in differences:
        if one.model != primary or one.metric != "pr_auc" or only not in (None, one.reference):
            continue
        lines.append(standing(one, model_name(primary), model_name(one.reference)))
    return lines


def standing(one: Difference, model: str, reference: str) -> str:
    """A difference in PR-AUC as a sentence; beaten is only who is behind by more than chance."""
    spread = f"95 % {interval_text(one, signed=True)}"
    if one.value == 0:
        return f"{model} says as much as {reference} by PR-AUC, {spread}"
    sure = one.better == (one.value > 0)
    stands = "is ahead of" if one.value > 0 else "IS BEATEN by" if sure else "is behind"
    chance = "more than chance" if sure else "may be chance"
    return f"{model} {stands} {reference} by {abs(one.value):.4f} PR-AUC, {spread}: {chance}"


def weaknesses(evaluation: ModelEval) -> list[str]:
    """Where the model is no better than a baseline, or than saying the same at all times."""
    part, primary = evaluation.headline, evaluation.primary
    lines = []
    thin = OF_BOTH_CLASSES if first(evaluation) else ()
    where = [(part_text(part.name), {name: one.metrics for name, one in part.models.items()}, thin)]
    if evaluation.walk_forward is not None:
        where.append(("the folds' mean", evaluation.walk_forward.models, ()))
    for place, models, left_out in where:
        for metric in (one for one in COMPARED if one not in left_out):
            better = _better_baselines(models, primary, metric)
            if better:
                lines.append(
                    f"On {place} the better {metric_name(metric)} is that of {', '.join(map(model_name, better))}"
                )
    mine = part.models[primary].metrics
    skill = mine.get("brier_skill")
    if skill is not None and skill.value <= 0:
        lines.append(f"Its probabilities are WORSE than climatology's constant: Brier skill {skill.value:.4f}")
    if mine["ece"].value > GOOD_ECE:
        lines.append(
            f"Its probabilities are off by {mine['ece'].value:.3f} on average (ECE); up to {GOOD_ECE} is held good"
        )
    return lines


def _better_baselines(models: dict[str, dict[str, Figure]], primary: str, metric: str) -> list[str]:
    mine, sign = models[primary].get(metric), METRICS[metric][1]
    if mine is None:
        return []
    return [
        name
        for name, theirs in models.items()
        if name != primary and metric in theirs and sign * theirs[metric].value > sign * mine.value
    ]


def folds_text(means: Means) -> str:
    if means.folds == means.folds_with_both_classes:
        return f"{means.folds} folds"
    return f"{means.folds} folds, of which {means.folds_with_both_classes} hold both spikes and quiet"
