"""The tables and texts of an evaluation's page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from common.paired_difference import model_name
from training.forecasting.kinds import KINDS
from training.judging.comparison import MIN_BLOCKS, Interval
from training.judging.evaluation_result import Difference, GroupingEval, ModelEval, PartEval
from training.reporting.forecast_page import (
    Cell,
    ForecastReport,
    ReportTable,
    TableRow,
    Tile,
    difference_cell,
    method_text,
)

# metric -> (name for people, whether more is better)
METRICS: Mapping[str, tuple[str, bool]] = {
    "crps_log": ("CRPS", False),
    "crps_bps": ("CRPS, bps", False),
    "qlike": ("QLIKE", False),
    "coverage_50": ("50 % interval", False),
    "coverage_80": ("80 % interval", False),
    "coverage_95": ("95 % interval", False),
    "log_loss": ("log loss", False),
    "brier": ("Brier", False),
    "pr_auc": ("PR-AUC", True),
    "roc_auc": ("ROC-AUC", True),
    "f1": ("F1", True),
    "precision": ("precision", True),
    "recall": ("recall", True),
    "caught_at_budget": ("caught in advance at the budget", True),
    "caught_at_budget_of_multiple": ("the same, spikes of a multiple", True),
}
COVERAGES = ("coverage_50", "coverage_80", "coverage_95")


def label(kind: str) -> str:
    """A model's name for people."""
    return next((each.label for each in KINDS if each.name == kind), model_name(kind))


def number(value: float | None, metric: str = "") -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if metric in COVERAGES else f"{value:.4f}"


def span_text(part: PartEval) -> str:
    start, end = (datetime.fromtimestamp(time_ns / 1e9, UTC) for time_ns in (part.start_ns, part.end_ns))
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"


def verdict(evaluation: ModelEval) -> str:
    """How the model compares with the reference: a sentence for the last part and, if there are folds, for them."""
    sentences = [
        _compared(evaluation, part.differences, place)
        for part, place in ((evaluation.walk_forward, "on the folds"), (evaluation.headline, _place(evaluation)))
        if part is not None
    ]
    return " ".join(sentence for sentence in sentences if sentence) or "No baseline was evaluated next to the model."


def report(evaluation: ModelEval, pictures: Mapping[str, bytes]) -> ForecastReport:
    """The content of the page."""
    part, model = evaluation.headline, evaluation.model
    title = f"Forecasts of {model.name}/{model.version}" if model else f"Forecasts of {label(evaluation.kind)}"
    files = f" · {len(evaluation.data.files)} files" if evaluation.data.files else ""
    settings = evaluation.settings
    tables = [_scores(evaluation), _at_sizes(evaluation), _differences(evaluation), _alerts(evaluation)]
    tables += [_groups(evaluation, grouping) for grouping in part.groupings if len(grouping.groups) > 1]
    return ForecastReport(
        title=title,
        subtitle=f"{label(evaluation.kind)} · {_place(evaluation)} · {span_text(part)}{files}",
        verdict=verdict(evaluation),
        tiles=_tiles(evaluation),
        checks=(),
        pictures=pictures,
        tables=[table for table in tables if table is not None],
        method=" ".join(
            [*(f"{note}." for note in evaluation.notes), method_text(settings.block_s, settings.seed, settings.block_s)]
        ),
    )


def _place(evaluation: ModelEval) -> str:
    return {"final": "on the final part", "evaluation": "on these recordings"}.get(
        evaluation.headline.name, f"on {evaluation.headline.name}"
    )


def _compared(evaluation: ModelEval, differences: tuple[Difference, ...], place: str) -> str:
    mine = [each for each in differences if each.model == evaluation.kind and each.reference == evaluation.reference]
    for metric in ("crps_log", "log_loss"):
        for each in mine:
            if each.metric == metric:
                return f"{place.capitalize()}, {_standing(each)}"
    return ""


def _standing(each: Difference) -> str:
    model, reference, (name, _) = label(each.model), label(each.reference), METRICS[each.metric]
    interval = each.interval
    if interval.low is None or interval.high is None:
        return (
            f"{model} and {reference} cannot be compared: {interval.blocks} blocks of time, and an interval needs "
            f"{MIN_BLOCKS}."
        )
    text = f"by {name} ({interval.point:+.4f}, 95 % interval {interval.low:+.4f} to {interval.high:+.4f})"
    if each.better is None:
        return f"{model} and {reference} do not differ by more than chance {text}."
    return f"{model} is {'better' if each.better else 'worse'} than {reference} {text}."


def _tiles(evaluation: ModelEval) -> list[Tile]:
    part = evaluation.headline
    metrics = part.models[evaluation.kind].metrics
    reference = part.models.get(evaluation.reference or "")
    tiles = []
    for metric in ("crps_log", "coverage_80", "coverage_95", "log_loss", "pr_auc"):
        if metric in metrics:
            name = METRICS[metric][0]
            if metric in COVERAGES:
                name = f"of outcomes in the {name}"
            elif reference is not None and evaluation.reference != evaluation.kind:
                name += f", {label(evaluation.reference or '')} {number(reference.metrics.get(metric))}"
            tiles.append(Tile(number(metrics[metric], metric), name))
    rate = part.events / part.rows
    tiles.append(Tile(f"{rate:.1%}", f"of rows reach {part.spike_bps:.3g} bps, base rate {part.base_rate:.1%}"))
    tiles.append(Tile(f"{part.rows:,}", f"rows, {part.observed_hours:,.1f} h, {part.blocks} blocks"))
    return tiles


def _scores(evaluation: ModelEval) -> ReportTable:
    part = evaluation.headline
    shown = ("crps_log", "crps_bps", "qlike", *COVERAGES, "log_loss", "brier", "pr_auc")
    names = [name for name in shown if name in part.models[evaluation.kind].metrics]
    rows = tuple(
        TableRow(
            (Cell(label(kind)), *(Cell(number(scores.metrics.get(name), name)) for name in names)),
            mine=kind == evaluation.kind,
        )
        for kind, scores in part.models.items()
    )
    rate = part.events / part.rows
    note = f"Log loss, Brier and PR-AUC at {part.spike_bps:.3g} bps, which {rate:.1%} of the rows reach."
    return ReportTable("Scores", ("model", *(METRICS[name][0] for name in names)), rows, note)


def _at_sizes(evaluation: ModelEval) -> ReportTable | None:
    part = evaluation.headline
    if not part.sizes:
        return None
    mine = part.models[evaluation.kind].metrics
    reference = part.models.get(evaluation.reference or "")
    rows = []
    for size in part.sizes:
        suffix = f"q{size.level * 100:.0f}"
        cells = [Cell(f"{size.spike_bps:.2f} bps", f"base rate {size.base_rate:.1%}, here {size.event_rate:.1%}")]
        for metric in ("log_loss", "brier", "pr_auc"):
            own = f"{metric}_{suffix}"
            theirs = reference.metrics.get(own) if reference else None
            beside = f"{label(evaluation.reference or '')} {number(theirs)}" if reference else ""
            cells.append(Cell(number(mine.get(own)), beside))
        rows.append(TableRow(tuple(cells)))
    return ReportTable("Spike sizes", ("size", "log loss", "Brier", "PR-AUC"), tuple(rows), "From the same model.")


def _differences(evaluation: ModelEval) -> ReportTable | None:
    """Rows: scores. Columns: the folds, and the last part."""
    places = {_place(evaluation): evaluation.headline.differences}
    if evaluation.walk_forward is not None:
        places = {"on the folds": evaluation.walk_forward.differences} | places
    mine = {
        place: {each.metric: each for each in differences if each.model == evaluation.kind}
        for place, differences in places.items()
    }
    metrics = [metric for metric in METRICS if any(metric in of_place for of_place in mine.values())]
    if not metrics:
        return None
    rows = tuple(
        TableRow((Cell(METRICS[metric][0]), *(_difference_cell(of_place.get(metric)) for of_place in mine.values())))
        for metric in metrics
    )
    title = f"{label(evaluation.kind)} minus {label(evaluation.reference or '')}"
    return ReportTable(title, ("score", *places), rows)


def _difference_cell(each: Difference | None) -> Cell:
    if each is None:
        return Cell("–")
    cell = difference_cell(each.interval)
    tone = {True: "better", False: "worse", None: ""}[each.better]
    return Cell(cell.text, cell.detail, tone)


def _alerts(evaluation: ModelEval) -> ReportTable:
    part, settings = evaluation.headline, evaluation.settings
    rows = []
    for kind, scores in part.models.items():
        counts, alerts, metrics = scores.confusion, scores.alerts, scores.metrics
        cells = (
            Cell(label(kind)),
            *(Cell(number(metrics.get(name))) for name in ("precision", "recall", "f1")),
            Cell(
                f"{counts.true_positives:,} / {counts.false_positives:,} / {counts.false_negatives:,} / "
                f"{counts.true_negatives:,}"
            ),
            Cell("–" if alerts.caught_in_advance is None else f"{alerts.caught_in_advance:.1%}"),
            Cell(f"{alerts.false_alarms_per_hour:.2f}"),
            Cell(*_share(alerts.caught_at_budget)),
        )
        rows.append(TableRow(cells, mine=kind == evaluation.kind))
    episodes = next(iter(part.models.values())).alerts.episodes
    note = (
        f"Alerts from a probability of {settings.alert_level:g} of reaching {part.spike_bps:.3g} bps; {episodes} spike "
        f"episodes. Budget: {settings.false_per_hour:g} false alarm per hour."
    )
    columns = (
        "model", "precision", "recall", "F1", "TP / FP / FN / TN", "caught in advance", "false alarms per hour",
        "caught at the budget",
    )  # fmt: skip
    return ReportTable("Alerts", columns, tuple(rows), note)


def _share(share: Interval | None) -> tuple[str, str]:
    if share is None:
        return "–", ""
    spread = "" if share.low is None or share.high is None else f"{share.low:.1%} to {share.high:.1%}"
    return f"{share.point:.1%}", spread


def _groups(evaluation: ModelEval, grouping: GroupingEval) -> ReportTable:
    names = [evaluation.kind]
    if evaluation.reference not in (None, evaluation.kind):
        names.append(evaluation.reference or "")
    rows = []
    for group in grouping.groups:
        cells = [Cell(group.name, f"{group.rows:,} rows")]
        cells += [Cell(number(group.models[name].get(grouping.metric))) for name in names]
        if group.difference is not None:
            cells.append(difference_cell(group.difference))
        rows.append(TableRow(tuple(cells)))
    columns = (grouping.by, *(label(name) for name in names), *(("difference",) if len(names) > 1 else ()))
    return ReportTable(f"{METRICS[grouping.metric][0]} by {grouping.by}", columns, tuple(rows))
