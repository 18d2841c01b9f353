"""Makes docs/model_eval.md from the structs: python -m training.reporting.evaluation_format > docs/model_eval.md"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any, get_type_hints

import msgspec

from training.judging.class_counts import MIN_ROWS_PER_CLASS
from training.judging.evaluation import episodes
from training.judging.evaluation.figures import ECE_BINS, METRICS
from training.judging.evaluation.result import FORMAT, ModelEval

MEANINGS = {
    "base_rate": "share of rows with a spike: what random ranks score as PR-AUC",
    "pr_auc": "average precision (step sum, no interpolation)",
    "pr_auc_lift": "PR-AUC over the base rate of the same rows",
    "roc_auc": "area under the ROC curve, ties half right",
    "brier": "mean square of probability − label",
    "brier_skill": "1 − Brier / Brier of saying `climatology` at all times; below 0 is worse than that constant",
    "brier_skill_own_rate": "the same against the rows' own base rate, which nobody knew beforehand",
    "log_loss": "mean of −log of the probability given to what came, natural logarithm, clipped as scikit-learn does",
    "ece": f"expected calibration error: mean distance of said from seen, by rows, over {ECE_BINS} bins of equal width",
    "ece_equal_mass": "the same over as many bins of equal numbers of rows",
    "mean_probability": "to be read beside the base rate",
    "precision": "of the rows with an alert, the share with a spike",
    "recall": "of the rows with a spike, the share with an alert",
    "f1": "harmonic mean of precision and recall",
    "alert_rate": "share of rows with an alert",
    "episodes_caught": "share of the spike episodes with an alert on one of their rows",
    "episodes_caught_in_advance": "… with a lead time above zero",
    "lead_time_s": "median over the caught episodes",
    "alarms_per_hour": "alarms by observed time",
    "false_alarms_per_hour": "false alarms by observed time",
    "budget_precision": "precision at the budget's threshold; so are the next ones",
    "budget_recall": "",
    "budget_f1": "",
    "budget_episodes_caught": "",
    "budget_episodes_caught_in_advance": "",
    "budget_alarms_per_hour": "what the threshold, chosen on earlier parts, came to here",
    "budget_false_alarms_per_hour": "",
}


def render() -> str:
    """The page as Markdown."""
    sections = [_OPENING, _metrics(), _events(), *(_struct(one) for one in _structs(ModelEval))]
    return "\n\n".join(sections) + "\n"


_OPENING = f"""# model_eval.json

What `volcast evaluate` (and a training run) writes: `reports/model_eval.json`, beside it `model_eval.html`, a page
that stands alone, and pictures in `reports/model_eval/`. Format {FORMAT}; this page is made from
[result.py](../training/judging/evaluation/result.py) by `training/reporting/evaluation_format.py`, and a test compares.

- A metric that the rows do not define is **absent**, an interval that too few draws define is `null`: ranks where all
  rows are of one class, precision without an alert, a lead time where nothing was caught. Nothing is filled in.
- Where a part has fewer than {MIN_ROWS_PER_CLASS} rows of either class, nothing about ranking can be concluded from it.
  `notes` say so, with the counts; of the last part, page, terminal and model card say it first, have no sentence on who
  is ahead there by PR-AUC, ROC-AUC or F1, and no picture of precision and recall, differences or spikes by percentile
  of the probability. Nor has a group with so few a bar; the page names these groups, and hours without a row.
- A difference whose interval holds zero may be chance, either way: only who is behind by more than that is beaten.
- Intervals are the middle 95 % over draws of whole blocks of time, with replacement; all models see the same draws, so
  differences are paired. Value and interval are made by the same function.
- Decision thresholds come from validation rows, never from the rows evaluated. The alert budget's threshold comes from
  the parts before; where there are none it is chosen in hindsight, and `chosen_on` says so.
- Rows from the time a bundle was trained on, and the embargo around it, are set aside and counted.
- Figures have nine digits. The same rows, bundle and seed give the same bytes."""


def _metrics() -> str:
    lines = ["| metric | name | better | what it is |", "|---|---|---|---|"]
    for metric, (name, sign) in METRICS.items():
        better = {1: "more", -1: "less", 0: ""}[sign]
        lines.append(f"| `{metric}` | {name} | {better} | {MEANINGS[metric]} |")
    return "## Metrics\n\n" + "\n".join(lines)


def _events() -> str:
    """The definitions as they stand in the code."""
    text = inspect.getdoc(episodes) or ""
    return "## Episodes and alarms\n\n" + text.partition("\n\n")[2]


def _structs(kind: type) -> Iterator[type]:
    """A struct and those inside it, in the order they are met."""
    found: dict[type, None] = {}
    waiting = [kind]
    while waiting:
        one = waiting.pop(0)
        if one in found:
            continue
        found[one] = None
        waiting += [inner for hint in get_type_hints(one).values() for inner in _inner(hint)]
    yield from found


def _inner(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    for one in getattr(hint, "__args__", ()):
        yield from _inner(one)


def _struct(kind: type) -> str:
    hints = get_type_hints(kind, include_extras=True)
    lines = [
        f"## {kind.__name__}",
        "",
        (inspect.getdoc(kind) or "").strip(),
        "",
        "| key | type | what |",
        "|---|---|---|",
    ]
    for name, hint in hints.items():
        said = next((one.description for one in getattr(hint, "__metadata__", ()) if one.description), "")
        lines.append(f"| `{name}` | {_type(getattr(hint, '__origin__', hint) if said else hint)} | {said} |")
    return "\n".join(lines)


_PLAIN = {float: "number", int: "integer", str: "string", bool: "true or false", type(None): "null"}


def _type(hint: Any) -> str:
    if hint in _PLAIN:
        return _PLAIN[hint]
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    arguments = hint.__args__
    if getattr(hint, "__origin__", None) is dict:
        return f"object of {_type(arguments[1])}"
    if getattr(hint, "__origin__", None) is tuple:
        return f"array of {_type(arguments[0])}"
    return " or ".join(map(_type, arguments))


if __name__ == "__main__":
    sys.stdout.write(render())
