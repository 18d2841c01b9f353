"""An evaluation in plain words, the same in the terminal, the report and the model card."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from training.evaluation.episodes import NS_PER_S
from training.evaluation.figures import METRICS
from training.evaluation.result import Difference, Figure, Means, ModelEval

NAMES = {
    "zscore": "z-score",
    "ewma": "EWMA",
    "har": "HAR logit",
    "har_logit": "HAR logit",
    "logistic": "logistic",
    "xgboost": "XGBoost",
    "given": "given",
}
COMPARED = ("roc_auc", "brier", "log_loss", "ece", "f1")  # beside PR-AUC, where a baseline may have the better one
GOOD_ECE = 0.03  # what the project holds itself to


def model_name(kind: str) -> str:
    return NAMES.get(kind, kind)


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


def findings(evaluation: ModelEval) -> list[str]:
    """What the evaluation comes to, the bad with the good: a sentence each, without a full stop."""
    part, primary = evaluation.headline, evaluation.primary
    found = [*standings(part.differences, primary)]
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
        stands = "says as much as" if one.value == 0 else "is ahead of" if one.value > 0 else "IS BEATEN by"
        chance = "may be chance" if one.better is None else "more than chance"
        lines.append(
            f"{model_name(primary)} {stands} {model_name(one.reference)} by {abs(one.value):.4f} PR-AUC, "
            f"95 % {interval_text(one, signed=True)}: {chance}"
        )
    return lines


def weaknesses(evaluation: ModelEval) -> list[str]:
    """Where the model is no better than a baseline, or than saying the same at all times."""
    part, primary = evaluation.headline, evaluation.primary
    lines = []
    where = {f"the {part.name} part": {name: one.metrics for name, one in part.models.items()}}
    if evaluation.walk_forward is not None:
        where["the folds' mean"] = evaluation.walk_forward.models
    for place, models in where.items():
        for metric in COMPARED:
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
