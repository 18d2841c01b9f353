"""Pictures of an evaluation, as PNG bytes; nothing is shown or written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

from common.paired_difference import model_name
from training.judging.class_counts import too_few
from training.judging.evaluation.episodes import NS_PER_S, Line
from training.judging.evaluation.result import Difference, Figure, ModelEval, Part
from training.judging.scored_part import Scored
from training.reporting.narrative import span_text
from training.reporting.report_style import BLUE, GREY, ORANGE, STYLE, png
from training.reporting.report_style import canvas as axes_of

# The model in the darkest of Okabe and Ito's colours, the rest fainter.
PRIMARY_COLOUR, ALARM_COLOUR = BLUE, ORANGE
COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
KIND_COLOURS = {
    "har": "#009e73",
    "har_logit": "#009e73",
    "har_returns": "#000000",
    "ewma": "#cc79a7",
    "zscore": "#e69f00",
    "logistic": "#d55e00",
    "xgboost": "#56b4e9",
}
SPIKE_COLOUR = "#f4c7c3"
PERCENTILE_STEPS = 20
LINE_POINTS = 4000
MOST_PANELS = 6
LEAST_BARS = 5  # room is left for so many, so that one bar is no wall


def pictures(evaluation: ModelEval, scored: Sequence[Scored]) -> dict[str, bytes]:
    """File name -> PNG, of the headline part; scored holds the rows of the same parts in the same order."""
    import matplotlib

    part, rows = evaluation.headline, scored[-1]
    makers = {
        "reliability": lambda: _reliability(part, evaluation.primary),
        "precision_recall": lambda: _precision_recall(part, evaluation.primary),
        "percentiles": lambda: _percentiles(part, rows, evaluation.primary),
        "over_time": lambda: _over_time(part, rows, evaluation),
        "by_day": lambda: _bars(part, evaluation, "day"),
        "by_hour": lambda: _bars(part, evaluation, "hour"),
        "by_regime": lambda: _bars(part, evaluation, "regime"),
        "differences": lambda: _differences(evaluation),
    }
    with matplotlib.rc_context(STYLE):
        drawn = {name: make() for name, make in makers.items()}  # type: ignore[no-untyped-call]
    return {f"{name}.png": png(canvas) for name, canvas in drawn.items() if canvas is not None}


def colours(names: Sequence[str], primary: str) -> dict[str, str]:
    """Each kind has its colour in every picture; the primary has its own."""
    spare = (one for one in COLOURS if one not in KIND_COLOURS.values())
    return {primary: PRIMARY_COLOUR} | {
        name: KIND_COLOURS.get(name) or next(spare, GREY) for name in names if name != primary
    }


def _reliability(part: Part, primary: str) -> Canvas:
    """Observed rate against what was said, the model large, each baseline beside it."""
    names = list(part.models)
    colour = colours(names, primary)
    canvas, ((axes, small),) = axes_of(11.2, 4.6, 1, 2)
    for axis, shown in ((axes, [primary]), (small, names)):
        top = _reliability_top(part, shown)
        axis.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", zorder=1)
        for name in shown[::-1]:
            bins = part.models[name].reliability
            said = [one.mean_probability for one in bins]
            seen = [one.observed.value for one in bins]
            axis.plot(
                said, seen, marker="o", markersize=4, color=colour[name], label=model_name(name), zorder=3,
                clip_on=False,
            )  # fmt: skip
        axis.set(xlim=(0, top), ylim=(0, top), xlabel="mean probability said")
        axis.set_aspect("equal")
        axis.xaxis.set_major_locator(MaxNLocator(6))
        axis.yaxis.set_major_locator(MaxNLocator(6))
    bins = part.models[primary].reliability
    for one in bins:
        if one.observed.low is not None:
            axes.vlines(
                one.mean_probability, one.observed.low, one.observed.high, color=PRIMARY_COLOUR, linewidth=5, alpha=0.25
            )
    rate = part.positives / part.rows
    axes.axhline(rate, color=GREY, linewidth=1, linestyle=":")
    if rate < 0.9 * axes.get_ylim()[1]:
        axes.text(axes.get_xlim()[1], rate, "base rate ", ha="right", va="bottom", color=GREY, fontsize=8)
    else:  # above it is the title, and the diagonal ends to the right
        axes.text(0, rate, " base rate", ha="left", va="top", color=GREY, fontsize=8)
    ece = part.models[primary].metrics["ece"].value
    axes.set(ylabel="rate of spikes seen", title=f"{model_name(primary)}: ECE {ece:.4f}")
    axes.set_xlabel("mean probability said; tenths of the rows, bars: 95 %")
    small.set_title("beside the baselines")
    handles, labels = small.get_legend_handles_labels()
    small.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return canvas


def _reliability_top(part: Part, names: Sequence[str]) -> float:
    """Room for what was said and seen; an interval may leave the picture."""
    bins = [one for name in names for one in part.models[name].reliability]
    return min(1.0, 1.5 * max(max(one.mean_probability, one.observed.value) for one in bins))


def _precision_recall(part: Part, primary: str) -> Canvas | None:
    if too_few(part.rows, part.positives):
        return None
    colour = colours(list(part.models), primary)
    canvas, ((axes,),) = axes_of(9.6, 4.6)
    rate = part.positives / part.rows
    for name in [*reversed([one for one in part.models if one != primary]), primary]:
        model = part.models[name]
        area = model.metrics["pr_auc"]
        spread = f" ({area.low:.3f}–{area.high:.3f})" if area.low is not None else ""
        axes.plot(
            [one.recall for one in model.curve],
            [one.precision for one in model.curve],
            color=colour[name],
            linewidth=2.2 if name == primary else 1.3,
            label=f"{model_name(name)}  {area.value:.3f}{spread}",
        )
    mine = part.models[primary].metrics
    if "precision" in mine and "recall" in mine:
        axes.plot(
            mine["recall"].value, mine["precision"].value, "o", color=PRIMARY_COLOUR, markersize=8,
            markerfacecolor="white", markeredgewidth=2, zorder=5, label="at the decision threshold",
        )  # fmt: skip
    axes.axhline(rate, color="black", linewidth=1, linestyle="--")
    axes.text(1.0, rate, f"base rate {rate:.3f} ", ha="right", va="bottom", fontsize=8)
    # The first few rows of a ranking may have any precision; the scale is for the rest.
    settled = [one.precision for model in part.models.values() for one in model.curve if one.recall >= 0.05]
    top = min(1.02, 1.3 * max([*settled, rate]))
    axes.set(xlim=(0, 1), ylim=(0, top), xlabel="recall", ylabel="precision")
    axes.set_title(f"Precision and recall, {span_text(part.start_ns, part.end_ns)}")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1],
        labels[::-1],
        title="PR-AUC (95 %)",
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        alignment="left",
    )
    return canvas


def _percentiles(part: Part, rows: Scored, primary: str) -> Canvas:
    """Left: what volatility did, and where τ stands in it. Right: spikes by percentile of the probability.

    There is no right side where one class has too few rows: of one class it is a line at the base rate.
    """
    ranked = not too_few(part.rows, part.positives)
    canvas, panels = axes_of(11.2 if ranked else 5.6, 4.2, 1, 2 if ranked else 1)
    _volatility_percentiles(panels[0, 0], part, rows)
    if ranked:
        _warned_percentiles(panels[0, 1], part, rows, primary)
    return canvas


def _volatility_percentiles(left: Any, part: Part, rows: Scored) -> None:
    at = np.linspace(0, 100, 201)
    volatility_bps = 1e4 * np.percentile(rows.future_volatility, at)
    threshold_bps = 1e4 * part.label_threshold
    left.plot(at, np.maximum(volatility_bps, 1e-3), color=PRIMARY_COLOUR, linewidth=2)
    left.axhline(threshold_bps, color=ALARM_COLOUR, linewidth=1.4)
    rate = part.positives / part.rows
    left.axvspan(100 * (1 - rate), 100, color=SPIKE_COLOUR, alpha=0.6, linewidth=0)
    left.text(
        1, threshold_bps, f"τ = {threshold_bps:.3g} bps", color=ALARM_COLOUR, va="bottom", fontsize=8.5, clip_on=True
    )
    left.set_yscale("log")
    # A market that stood still for a moment would stretch the scale by decades; τ is to be seen all the same.
    left.set_ylim(bottom=0.8 * max(1e-3, min(float(np.percentile(volatility_bps, 1)), threshold_bps)))
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.yaxis.set_minor_locator(NullLocator())
    left.set(xlim=(0, 100), xlabel="percentile of these rows", ylabel="volatility over the horizon, bps")
    left.set_title(f"What came: {rate:.1%} of rows at τ or above")


def _warned_percentiles(right: Any, part: Part, rows: Scored, primary: str) -> None:
    rate = part.positives / part.rows
    colour = colours(list(part.models), primary)
    for name in [*reversed([one for one in part.models if one != primary]), primary]:
        middle, seen = _spikes_by_percentile(rows.y, rows.probabilities[name])
        right.plot(
            middle, seen, color=colour[name], marker="o", markersize=3, label=model_name(name),
            linewidth=2.2 if name == primary else 1.2,
        )  # fmt: skip
    right.axhline(rate, color="black", linewidth=1, linestyle="--")
    right.text(0, rate, " base rate", va="bottom", fontsize=8)
    right.set(xlim=(0, 100), ylim=(0, None), xlabel="percentile of the probability said", ylabel="rate of spikes")
    right.set_title(f"Who was warned: spikes in each {100 // PERCENTILE_STEPS} % of rows")
    handles, labels = right.get_legend_handles_labels()
    right.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _spikes_by_percentile(
    y: NDArray[np.int8], probability: NDArray[np.float64]
) -> tuple[NDArray[np.float64], list[float]]:
    order = np.argsort(probability, kind="stable")
    parts = [one for one in np.array_split(y[order], PERCENTILE_STEPS) if len(one)]
    middle = 100 * (np.arange(len(parts)) + 0.5) / len(parts)
    return middle, [float(one.mean()) for one in parts]


def _over_time(part: Part, rows: Scored, evaluation: ModelEval) -> Canvas:
    """What was said as time went on, with what came; a panel for each stretch that was recorded."""
    line = Line.of(rows.product, rows.time_ns, int(evaluation.settings.horizon_s * NS_PER_S))
    stretches = _longest_stretches(line)
    canvas, panels = axes_of(9.6, 0.9 + 1.55 * len(stretches), len(stretches), 1, sharey=True)
    model = part.models[evaluation.primary]
    probability = rows.probabilities[evaluation.primary]
    top = min(1.0, 1.3 * max(float(probability.max()), model.decision_threshold))
    for number, (axes, places) in enumerate(zip(panels[:, 0], stretches, strict=True)):
        at = line.order[places]
        times = np.array([datetime.fromtimestamp(one / NS_PER_S, UTC) for one in rows.time_ns[at].tolist()])
        _shade(axes, times, rows.y[at] == 1)
        axes.plot(times, probability[at], color=PRIMARY_COLOUR, linewidth=1)
        axes.axhline(model.decision_threshold, color=ALARM_COLOUR, linewidth=1, linestyle="--")
        locator = AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        axes.set(ylim=(0, top), xlim=(times[0], times[-1]), ylabel="probability")
        axes.grid(axis="x", visible=False)
        if number == 0:
            told = "" if len(stretches) == _stretch_count(line) else f", the {len(stretches)} longest stretches"
            axes.set_title(f"{model_name(evaluation.primary)} over time{told}; shaded: a spike follows")
            axes.text(
                times[-1], model.decision_threshold, "decision threshold ", color=ALARM_COLOUR, fontsize=8, ha="right",
                va="bottom", bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
            )  # fmt: skip
    return canvas


def _stretch_count(line: Line) -> int:
    return len(np.unique(line.stretch))


def _longest_stretches(line: Line) -> list[NDArray[np.int64]]:
    """Places of the longest stretches, in time order, thinned to what a picture can show."""
    numbers, counts = np.unique(line.stretch, return_counts=True)
    chosen = np.sort(numbers[np.argsort(-counts, kind="stable")[:MOST_PANELS]])
    found = []
    for number in chosen:
        places = np.flatnonzero(line.stretch == number)
        found.append(places[:: max(1, len(places) // LINE_POINTS)])
    return found


def _shade(axes: Any, times: NDArray[Any], spike: NDArray[np.bool_]) -> None:
    axes.fill_between(times, 0, 1, where=spike, color=SPIKE_COLOUR, step="mid", linewidth=0)


def _bars(part: Part, evaluation: ModelEval, by: str) -> Canvas | None:
    """PR-AUC of model and reference with its base rate, group by group."""
    grouping = next(one for one in part.groupings if one.by == by)
    primary, reference = evaluation.primary, evaluation.reference
    shown = [primary, *([reference] if reference not in (None, primary) else [])]
    groups = [one for one in grouping.groups if not too_few(one.rows, one.positives)]
    if not groups:
        return None
    colour = colours(list(part.models), primary)
    canvas, ((axes,),) = axes_of(9.6, 3.7)
    width = 0.8 / len(shown)
    for place, name in enumerate(shown):
        at = np.arange(len(groups)) + (place - (len(shown) - 1) / 2) * width
        figures = [one.models[str(name)].get("pr_auc") for one in groups]
        axes.bar(
            at,
            [one.value if one else 0 for one in figures],
            width * 0.92,
            color=colour[str(name)],
            label=model_name(str(name)),
            alpha=0.9 if name == primary else 0.55,
        )
        _whiskers(axes, at, figures)
    rates = [one.positives / one.rows for one in groups]
    axes.hlines(
        rates,
        np.arange(len(groups)) - 0.45,
        np.arange(len(groups)) + 0.45,
        color="black",
        linewidth=1.6,
        label="base rate",
    )
    crowded = len(groups) > 12
    spare = max(0, LEAST_BARS - len(groups)) / 2
    axes.set_xlim(-0.6 - spare, len(groups) - 0.4 + spare)
    axes.set_xticks(
        np.arange(len(groups)),
        [one.name if crowded else f"{one.name}\n{one.rows:,} rows" for one in groups],
        rotation=90 if crowded and len(groups[0].name) > 3 else 0,
        fontsize=8,
    )
    axes.grid(axis="x", visible=False)
    title = {"day": "By day (UTC)", "hour": "By hour of the day (UTC)", "regime": "By volatility just before"}
    axes.set(ylim=(0, 1), ylabel="PR-AUC", title=title[by])
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return canvas


def _whiskers(axes: Any, at: NDArray[Any], figures: Sequence[Figure | None]) -> None:
    for place, one in zip(at, figures, strict=True):
        if one is not None and one.low is not None:
            axes.vlines(place, one.low, one.high, color="#333333", linewidth=1.2)


def _differences(evaluation: ModelEval) -> Canvas | None:
    """The model's PR-AUC less each other's, with intervals: right of zero is better."""
    part, means = evaluation.headline, evaluation.walk_forward
    given: dict[str, Sequence[Difference]] = {}
    if not too_few(part.rows, part.positives):
        given[part.name] = part.differences
    if means is not None:
        given["folds' mean"] = means.differences
    shown = [
        (where, one)
        for where, differences in given.items()
        for one in differences
        if one.model == evaluation.primary and one.metric == "pr_auc" and one.low is not None
    ]
    if not shown:
        return None
    canvas, ((axes,),) = axes_of(9.6, 1.2 + 0.4 * len(shown))
    for place, (_, one) in enumerate(shown[::-1]):
        colour = GREY if one.better is None else PRIMARY_COLOUR if one.better else ALARM_COLOUR
        axes.hlines(place, one.low, one.high, color=colour, linewidth=2.4)
        axes.plot(one.value, place, "o", color=colour, markersize=7)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), [f"less {model_name(one.reference)} ({where})" for where, one in shown[::-1]])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="difference in PR-AUC, 95 % paired interval")
    axes.set_title(f"{model_name(evaluation.primary)}: right of zero is ahead")
    return canvas
