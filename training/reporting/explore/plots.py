"""Pictures of an exploration, as PNG bytes; nothing is shown or written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from training.reporting.explore.result import Exploration, Period
from training.reporting.report_style import BLUE, GREEN, GREY, ORANGE, PALE, STYLE, canvas, heading, panels, png

PANELS_A_ROW = 5
CAPTIONS = {
    "percentiles": "Percentiles of the outcome with the default spike size.",
    "spike_sizes": "Alerts of each spike size, if every row at or above it gave an alert.",
    "memory": "Volatility remembers: the slower the fall, the longer the windows that help.",
    "hours_of_day": "The day in UTC: median and middle half of the outcomes.",
    "days": "Days with rows: median and middle half of the outcomes.",
    "features": "Spearman's correlation of each feature with the outcome. A pair of dots far apart: not stable.",
    "outcome_by_decile": "Median outcome by tenth of each feature.",
    "correlations": "Spearman's correlations between the features.",
}


def pictures(exploration: Exploration) -> dict[str, bytes]:
    """Names of CAPTIONS -> PNG. A picture without data is left out."""
    makers: dict[str, Callable[[Exploration], Figure | None]] = {
        "percentiles": _percentiles,
        "spike_sizes": _spike_sizes,
        "memory": _memory,
        "hours_of_day": lambda each: _periods(each.hours_of_day, each, "hour of the day, UTC"),
        "days": lambda each: _periods(each.days, each, "day, UTC"),
        "features": _features,
        "outcome_by_decile": _outcome_by_decile,
        "correlations": _correlations,
    }
    with matplotlib.rc_context(STYLE):
        figures = {name: make(exploration) for name, make in makers.items()}
        return {name: png(figure) for name, figure in figures.items() if figure is not None}


def _log_bps(axis: Any) -> None:
    """Ticks at 1, 2 and 5 of each power of ten."""
    axis.axes.set_yscale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _percentiles(exploration: Exploration) -> Figure:
    figure, [[axes]] = canvas(8, 3.8)
    axes.plot(np.arange(101), exploration.outcome_percentiles_bps, color=BLUE, lw=2)
    axes.axhline(exploration.spike_bps, color=ORANGE, lw=1.2, label=f"spike size: {exploration.spike_bps:.3g} bps")
    _log_bps(axes.yaxis)
    axes.set(xlim=(0, 100.5), xlabel="percentile of rows")
    axes.set_ylabel(f"volatility of the next {exploration.horizon_s} s, bps")
    axes.legend(loc="upper left")
    return figure


def _spike_sizes(exploration: Exploration) -> Figure:
    figure, [[left, right]] = canvas(9, 3.4, 1, 2)
    sizes = [each.spike_bps for each in exploration.sizes]
    for axes, values, label in (
        (left, [each.alerts_per_hour for each in exploration.sizes], "alerts per hour"),
        (right, [each.share_of_time for each in exploration.sizes], "share of time under alert"),
    ):
        axes.plot(sizes, values, "o-", color=BLUE)
        axes.axvline(exploration.spike_bps, color=ORANGE, lw=1.2)
        axes.set(xlabel="spike size, bps", ylabel=label)
        axes.set_ylim(bottom=0)
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def _memory(exploration: Exploration) -> Figure | None:
    if not exploration.lags:
        return None
    figure, [[axes]] = canvas(8, 3.4)
    minutes = [each.seconds / 60 for each in exploration.lags]
    axes.plot(minutes, [each.autocorrelation for each in exploration.lags], "o-", color=BLUE)
    axes.axhline(0, color=GREY, lw=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set(xlabel="minutes apart", ylabel="autocorrelation of log volatility")
    return figure


def _periods(periods: tuple[Period, ...], exploration: Exploration, label: str) -> Figure | None:
    if len(periods) < 2:
        return None
    figure, [[axes]] = canvas(9, 3.6)
    low, middle, high = np.array([each.quartiles_bps for each in periods]).T
    places = np.arange(len(periods))
    axes.vlines(places, low, high, color=PALE, lw=7)
    axes.plot(places, middle, "o", color=BLUE, ms=4)
    axes.axhline(exploration.spike_bps, color=ORANGE, lw=1.2)
    _log_bps(axes.yaxis)
    step = -(-len(periods) // 16)
    axes.set_xticks(places[::step], [each.name[-5:] for each in periods[::step]])
    axes.set(xlabel=label, ylabel="outcome, bps")
    return figure


def _features(exploration: Exploration) -> Figure:
    features = sorted(exploration.features, key=lambda each: abs(each.rank_correlation))
    figure, [[axes]] = canvas(8, 1 + 0.24 * len(features))
    places = np.arange(len(features))
    axes.barh(places, [each.rank_correlation for each in features], color=PALE)
    for half, colour, name in ((0, BLUE, "first half"), (1, GREEN, "second half")):
        axes.plot([each.halves[half] for each in features], places, "o", color=colour, ms=4, label=name)
    axes.set_yticks(places, [f"|{each.name}|" if each.by_size else each.name for each in features])
    axes.set(xlabel="rank correlation with the outcome", ylim=(-0.7, len(features) - 0.3))
    axes.legend(loc="lower right")
    return figure


def _outcome_by_decile(exploration: Exploration) -> Figure:
    figure, grid = panels(len(exploration.features), PANELS_A_ROW, (2.1, 1.55), (0.42, 0.3))
    heading(figure, "Median outcome in bps, from the lowest to the highest tenth of each feature")
    for axes, feature in zip(grid.flat, exploration.features, strict=False):
        shown = [np.nan if each is None else each for each in feature.outcome_by_decile_bps]
        axes.plot(np.arange(1, 11), shown, ".-", color=BLUE)
        axes.set_title(feature.name, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.set_xticks([1, 5, 10])
    return figure


def _correlations(exploration: Exploration) -> Figure:
    names = [each.name for each in exploration.features]
    size = 2.6 + 0.22 * len(names)
    figure, [[axes]] = canvas(size, size)
    axes.imshow(np.array(exploration.correlations), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.grid(visible=False)
    return figure
