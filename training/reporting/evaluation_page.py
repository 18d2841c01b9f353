"""An evaluation as one HTML page that stands alone: pictures are inside, and nothing is asked of any host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import msgspec

from common.paired_difference import model_name
from training.judging.class_counts import too_few
from training.judging.evaluation.figures import METRICS
from training.judging.evaluation.result import (
    Confusion,
    Difference,
    Figure,
    Group,
    Grouping,
    ModelEval,
    ModelFigures,
    Part,
)
from training.reporting.narrative import (
    findings,
    first,
    folds_text,
    interval_text,
    metric_name,
    notes,
    number,
    span_text,
    without_bars,
)
from training.reporting.report_style import document, picture

# What each picture shows, in the order of the page.
PICTURES = {
    "reliability.png": "Of the rows of which a probability was said, how often did a spike come?",
    "precision_recall.png": "Each threshold is a point. Random ranks lie on the base rate.",
    "differences.png": "Both models on the same draws of blocks, so that what is hard for both cancels out.",
    "percentiles.png": "Left: what volatility did in this time. Right: how spikes gather where they were announced.",
    "over_time.png": "A good forecast rises before the shade begins and falls before it ends.",
    "by_day.png": "Bars with 95 % intervals; PR-AUC is to be read against the base rate of its own day.",
    "by_hour.png": "The same by hour.",
    "by_regime.png": "The same by how lively the minute before was: telling calm from lively is the easy part.",
}
GROUP_COLUMNS = ("pr_auc", "pr_auc_lift", "brier", "brier_skill", "precision", "recall")


def page(evaluation: ModelEval, pictures: Mapping[str, bytes]) -> str:
    """The whole document."""
    part = evaluation.headline
    body = [
        _head(evaluation, part),
        _first(evaluation),
        _tiles(evaluation, part),
        _list("What it comes to", findings(evaluation)),
        _list("To know before reading on", notes(evaluation), "note"),
        f"<h2>Metrics, with every baseline</h2><section>{_metrics(part, evaluation.primary)}</section>",
        f"<h2>Differences</h2><section>{_differences(part.differences)}{_block_lengths(part)}</section>",
        _pictures(pictures, part),
        f"<h2>Decisions</h2><section>{_decisions(part)}</section>",
        _folds(evaluation),
        *(_grouping(one, evaluation) for one in part.groupings),
        _method(evaluation, part),
    ]
    return document(_title(evaluation), "\n".join(one for one in body if one))


def _title(evaluation: ModelEval) -> str:
    if evaluation.model is None:
        return f"Evaluation of {model_name(evaluation.primary)}"
    return f"Evaluation of {evaluation.model.name} {evaluation.model.version}"


def _head(evaluation: ModelEval, part: Part) -> str:
    what = model_name(evaluation.primary)
    data = f" · {len(evaluation.data.files)} files" if evaluation.data.files else ""
    products = f" · {escape(', '.join(evaluation.data.products))}" if evaluation.data.products else ""
    return (
        f"<h1>{escape(_title(evaluation))}</h1>"
        f'<p class="sub">{escape(what)} · {span_text(part.start_ns, part.end_ns)}{products}{data}</p>'
    )


def _first(evaluation: ModelEval) -> str:
    text = first(evaluation)
    return f'<section class="note"><b>{escape(text)}.</b></section>' if text else ""


def _tiles(evaluation: ModelEval, part: Part) -> str:
    mine = part.models[evaluation.primary].metrics
    tiles = [
        (f"{part.positives / part.rows:.1%}", "base rate"),
        *((_tile(mine[name]), _tile_name(name, mine[name])) for name in _TILES if name in mine),
        (f"{part.rows:,}", f"rows, {part.episodes} spike episodes in {part.observed_hours:.1f} h"),
    ]
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in tiles)
        + "</div>"
    )


_TILES = ("pr_auc", "pr_auc_lift", "brier_skill", "ece")


def _tile(figure: Figure) -> str:
    return f"{figure.value:.3f}" if abs(figure.value) < 1 else f"{figure.value:.2f}"


def _tile_name(name: str, figure: Figure) -> str:
    return f"{escape(metric_name(name))}<br>95 %: {interval_text(figure)}"


def _list(title: str, lines: Sequence[str], kind: str = "") -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escape(one)}.</li>" for one in lines)
    return f'<h2>{title}</h2><section class="{kind}"><ul>{items}</ul></section>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], mine: int | None = None) -> str:
    """Cells are HTML already; column `mine` is set off."""

    def cell(tag: str, place: int, text: str) -> str:
        return f'<{tag} class="mine">{text}</{tag}>' if place == mine else f"<{tag}>{text}</{tag}>"

    top = "".join(cell("th", place, text) for place, text in enumerate(head))
    lines = "".join(
        "<tr>" + "".join(cell("td", place, text) for place, text in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    spread = "" if figure.low is None or figure.high is None else f"{number(figure.low)} to {number(figure.high)}"
    return f"{number(figure.value)}<small>{spread}</small>"


def _metrics(part: Part, primary: str) -> str:
    names = list(part.models)
    rows = []
    for metric in METRICS:
        figures = [part.models[name].metrics.get(metric) for name in names]
        if any(figures):
            rows.append([escape(metric_name(metric)), *map(_cell, figures)])
    table = _table(["", *(escape(model_name(name)) for name in names)], rows, mine=1 + names.index(primary))
    return f'<p class="sub">Small: 95 % intervals. – : these rows do not define it.</p>{table}'


def _differences(differences: Sequence[Difference]) -> str:
    if not differences:
        return "<p>There is nothing to compare with.</p>"
    pairs = list(dict.fromkeys((one.model, one.reference) for one in differences))
    metrics = [one for one in dict.fromkeys(one.metric for one in differences) if one != "pr_auc_lift"]
    by_key = {(one.model, one.reference, one.metric): one for one in differences}
    rows = [
        [
            f"{escape(model_name(model))} less {escape(model_name(reference))}",
            *(_difference_cell(by_key.get((model, reference, metric))) for metric in metrics),
        ]
        for model, reference in pairs
    ]
    table = _table(["", *(escape(metric_name(one)) for one in metrics)], rows)
    return (
        '<p class="sub">Paired on the same draws. <span class="good">Green</span>: the whole interval favours the '
        f'first; <span class="bad">red</span>: the second.</p>{table}'
    )


def _difference_cell(one: Difference | None) -> str:
    if one is None:
        return "–"
    kind = {True: ' class="good"', False: ' class="bad"', None: ""}[one.better]
    return f"<span{kind}>{one.value:+.4f}</span><small>{interval_text(one, signed=True)}</small>"


def _block_lengths(part: Part) -> str:
    if not part.block_lengths:
        return ""
    first = part.block_lengths[0].difference
    rows = [
        [f"{one.block_s / 60:,.0f} min", f"{one.blocks:,}", _difference_cell(one.difference)]
        for one in part.block_lengths
    ]
    title = f"PR-AUC of {model_name(first.model)} less {model_name(first.reference)}, by length of the blocks"
    return f"<h3>{escape(title)}</h3>{_table(['blocks of', 'blocks', 'difference'], rows)}"


def _pictures(pictures: Mapping[str, bytes], part: Part) -> str:
    captions = {name: _caption(name, part) for name in PICTURES if name in pictures}
    figures = [picture(pictures[name], caption, caption) for name, caption in captions.items()]
    return f"<h2>Pictures</h2><section>{''.join(figures)}</section>" if figures else ""


def _caption(name: str, part: Part) -> str:
    if name == "percentiles.png" and too_few(part.rows, part.positives):
        return "What volatility did in this time."
    grouping = next((one for one in part.groupings if name == f"by_{one.by}.png"), None)
    return " ".join([PICTURES[name], *(f"{one}." for one in without_bars(grouping))]) if grouping else PICTURES[name]


def _decisions(part: Part) -> str:
    rows = [_decision(name, model) for name, model in part.models.items()]
    head = ["", "threshold", "true +", "false +", "false −", "true −"]
    budgets = [
        [
            escape(model_name(name)),
            number(model.budget.threshold),
            *_confusion_cells(model.budget.confusion),
            escape(model.budget.chosen_on),
        ]
        for name, model in part.models.items()
        if model.budget is not None
    ]
    text = f"<h3>At the decision threshold, chosen on validation rows</h3>{_table(head, rows)}"
    if budgets:
        allowed = next(model.budget.alarms_per_hour for model in part.models.values() if model.budget)
        text += f"<h3>At a budget of {allowed:g} alarms an hour</h3>{_table([*head, 'threshold from'], budgets)}"
    return text


def _decision(name: str, model: ModelFigures) -> list[str]:
    return [
        escape(model_name(name)),
        number(model.decision_threshold),
        *_confusion_cells(model.confusion),
    ]


def _confusion_cells(confusion: Confusion) -> list[str]:
    return [f"{count:,}" for count in msgspec.structs.astuple(confusion)]


def _folds(evaluation: ModelEval) -> str:
    means = evaluation.walk_forward
    if means is None:
        return ""
    names = list(means.models)
    shown = [metric for metric in METRICS if any(metric in means.models[name] for name in names)]
    rows = [[escape(metric_name(one)), *(_cell(means.models[name].get(one)) for name in names)] for one in shown]
    folds = [one for one in evaluation.parts if one.name.startswith("fold")]
    each = [
        [
            f"{escape(one.name)}<small>{span_text(one.start_ns, one.end_ns)}</small>",
            f"{one.rows:,}",
            f"{one.positives / one.rows:.3f}",
            *(_cell(one.models[name].metrics.get("pr_auc")) for name in names),
        ]
        for one in folds
    ]
    labels = [escape(model_name(name)) for name in names]
    return (
        f"<h2>Walk-forward: means over {folds_text(means)}</h2><section>"
        f"{_table(['', *labels], rows, mine=1 + names.index(evaluation.primary))}"
        f"<h3>Differences of the means</h3>{_differences(means.differences)}"
        f"<h3>PR-AUC fold by fold</h3>{_table(['', 'rows', 'base rate', *labels], each)}</section>"
    )


def _grouping(grouping: Grouping, evaluation: ModelEval) -> str:
    shown = [evaluation.primary]
    if evaluation.reference not in (None, evaluation.primary):
        shown.append(str(evaluation.reference))
    head = ["", "rows", "base rate", *(f"{escape(metric_name(one))}" for one in GROUP_COLUMNS)]
    rows = [line for group in grouping.groups for line in _group_lines(group, shown)]
    said = [one for one in (grouping.note, *without_bars(grouping)) if one]
    note = f'<p class="sub">{escape(". ".join(said))}</p>' if said else ""
    return (
        f"<h2>By {escape(grouping.by)}</h2><section><details{' open' if len(grouping.groups) <= 6 else ''}>"
        f"<summary>{len(grouping.groups)} {'group' if len(grouping.groups) == 1 else 'groups'}</summary>"
        f"{note}{_table(head, rows)}</details></section>"
    )


def _group_lines(group: Group, shown: Sequence[str]) -> list[list[str]]:
    return [
        [
            f"<b>{escape(group.name)}</b> {escape(model_name(name))}",
            f"{group.rows:,}",
            f"{group.positives / group.rows:.3f}",
            *(_cell(group.models[name].get(metric)) for metric in GROUP_COLUMNS),
        ]
        for name in shown
    ]


def _method(evaluation: ModelEval, part: Part) -> str:
    given, data = evaluation.settings, evaluation.data
    lines = [
        f"τ = {part.label_threshold:.6g} (log), taken from training rows only; a row is a spike where the realized "
        f"volatility over the {given.horizon_s:g} s after it is at least τ",
        f"Climatology {part.climatology:.4f}: the rate of spikes known beforehand, which Brier skill is against",
        f"Intervals: {given.resamples:,} draws of {part.blocks:,} blocks of {given.block_s:g} s (groups: "
        f"{given.group_resamples:,}), seed {given.seed}; the middle 95 %",
        "An episode is a run of spike rows, an alarm a run of alerts, rows at most the horizon apart; lead time is "
        "counted back from the moment the spike could be seen; training/judging/evaluation/episodes.py says it exactly",
    ]
    if evaluation.model is not None:
        model = evaluation.model
        lines.append(
            f"Model {model.name} {model.version} ({model.kind}), schema {model.schema} ({model.schema_hash}), SHA-256 "
            f"{model.model_sha256}"
        )
    if data.files:
        lines.append(f"Data: {', '.join(data.files)}; SHA-256 {data.sha256}")
    if data.counts:
        lines.append("Rows: " + ", ".join(f"{name} {count:,}" for name, count in data.counts.items()))
    return _list("How it was done", lines)
