"""Makes docs/model_eval.md from the structs: python -m training.reporting.evaluation_format > docs/model_eval.md"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any, get_type_hints

import msgspec

from training.judging import episodes
from training.judging.comparison import Interval
from training.judging.evaluation_result import FORMAT, ModelEval

MEANINGS = {
    "crps_log": "CRPS on log volatility, which decides: 0 for a certain and right forecast; less is better",
    "crps_bps": "CRPS in basis points, dominated by lively hours",
    "qlike": "QLIKE of the variance: r − log r − 1, where r is outcome over forecast",
    "pinball_0.5": "pinball loss on log volatility at this level; also at 0.025, 0.1, 0.25, 0.75, 0.9, 0.975",
    "coverage_80": "share of outcomes in the central 80 % interval, ideally 0.8; also 50 and 95",
    "log_loss": "minus the logarithm of the probability of the observed class at the served size",
    "brier": "mean squared error of the probability",
    "pr_auc": "average precision; random ranks have the event rate",
    "roc_auc": "area under the ROC curve",
    "f1": "harmonic mean of precision and recall at the alert level",
    "precision": "share of alerts (rows) with an event; 0 without an alert",
    "recall": "share of events (rows) with an alert",
    "alert_rate": "share of rows with an alert",
    "mean_probability": "of the rows; close to the event rate if calibrated",
    "log_loss_q90": "log loss at the size that is this quantile of the training rows; also at q50, q75, q95, q99",
    "brier_q90": "likewise",
    "pr_auc_q90": "likewise",
    "roc_auc_q90": "likewise",
    "caught_at_budget": "differences only: share of spikes caught in advance at the budget of false alarms",
    "caught_at_budget_of_multiple": "likewise, for spikes of a multiple of the trailing hour",
}

INTRODUCTION = f"""# model_eval.json

The file that `volcast evaluate` and a training run write: `reports/model_eval.json`, with `model_eval.html`, a page
that needs no other file, and pictures in `reports/model_eval/`. Format {FORMAT}. This page is made by
`training/reporting/evaluation_format.py` from the code, and a test compares them.

- The newest rows are in the last part. `parts[-1].models` holds, for the model and each baseline, `metrics` (PR-AUC,
  F1, precision, recall and more), `confusion` and `classification_report`. `parts[-1].differences` compares with HAR.
- A metric that the rows do not define is absent. An interval that too few blocks of time define has ends that are null.
- Intervals hold 95 % and come from draws of whole blocks of time; both models see the same draws. An interval that
  contains 0 may be chance.
- Nothing is tuned on the evaluated rows, with two exceptions that say so: `caught_at_budget` chooses its level on these
  rows (again in each draw), and a cost curve of a single part chooses its levels on the first half of that part.
- Rows of the time that a bundle was trained on are left out and counted, unless `--seen` is set.
- A bundle without a distribution is scored at its own spike size only: no CRPS, coverage, PIT or other sizes.
- The same rows, bundle and seed give the same bytes.
"""


def render() -> str:
    """The whole page."""
    sections = [INTRODUCTION.strip(), _metrics(), _events(), *map(_struct, _structs(ModelEval))]
    return "\n\n".join(sections) + "\n"


def _metrics() -> str:
    rows = (f"| `{metric}` | {meaning} |" for metric, meaning in MEANINGS.items())
    return "\n".join(["## Metrics", "", "| metric | meaning |", "|---|---|", *rows])


def _events() -> str:
    """The definitions in the code."""
    return "## Episodes and alarms\n\n" + (inspect.getdoc(episodes) or "").partition("\n\n")[2]


def _structs(kind: type) -> Iterator[type]:
    """A struct and those inside it, in the order they are met."""
    structs: dict[type, None] = {}
    waiting = [kind]
    while waiting:
        struct = waiting.pop(0)
        if struct not in structs:
            structs[struct] = None
            waiting += [inner for hint in get_type_hints(struct).values() for inner in _inner(hint)]
    yield from structs


def _inner(hint: Any) -> Iterator[type]:
    if _is_struct(hint):
        yield hint
    for argument in getattr(hint, "__args__", ()):
        yield from _inner(argument)


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
        text = next((meta.description for meta in getattr(hint, "__metadata__", ()) if meta.description), "")
        lines.append(f"| `{name}` | {_type(getattr(hint, '__origin__', hint) if text else hint)} | {text} |")
    return "\n".join(lines)


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and (issubclass(hint, msgspec.Struct) or hint is Interval)


_PLAIN = {Any: "any", float: "number", int: "integer", str: "string", bool: "true or false", type(None): "null"}


def _type(hint: Any) -> str:
    if hint in _PLAIN:
        return _PLAIN[hint]
    if _is_struct(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    arguments = hint.__args__
    if getattr(hint, "__origin__", None) is dict:
        return f"object of {_type(arguments[1])}"
    if getattr(hint, "__origin__", None) is tuple:
        return f"array of {_type(arguments[0])}"
    return " or ".join(map(_type, arguments))


if __name__ == "__main__":
    sys.stdout.write(render())
