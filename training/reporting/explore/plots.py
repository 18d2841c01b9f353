"""Pictures of an exploration, as PNG bytes; nothing is shown or written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from training.reporting.explore.result import Exploration, Feature
from training.reporting.report_style import BLUE, GREY, ORANGE, PALE, STYLE, canvas, heading, panels, png

PANELS_A_ROW = 5
_SHARE = PercentFormatter(1.0, decimals=0)
MOST_DAY_LABELS = 16


def pictures(exploration: Exploration, only: Sequence[str] | None = None) -> dict[str, bytes]:
    """File name -> PNG; only: names without .png, of those alone. One that the data cannot fill is left out."""
    makers: dict[str, Callable[[Exploration], Figure | None]] = {
        "percentiles": _percentiles,
        "threshold_cost": _threshold_cost,
        "autocorrelation": _autocorrelation,
        "diurnal": _diurnal,
        "days": _days,
        "distributions": _distributions,
        "deciles": _deciles,
        "correlation": _correlation,
        "stability": _stability,
    }
    with matplotlib.rc_context(STYLE):
        drawn = {name: make(exploration) for name, make in makers.items() if only is None or name in only}
        return {f"{name}.png": png(figure) for name, figure in drawn.items() if figure is not None}


def _bps(values: ArrayLike) -> NDArray[np.float64]:
    return 1e4 * np.asarray(values, np.float64)


def _log_bps(axis: Any) -> None:
    """Ticks at 1, 2 and 5 of each power of ten: spans here are short of two."""
    axis.axes.set_yscale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _percentiles(exploration: Exploration) -> Figure:
    figure, [[axes]] = canvas(8, 3.8)
    values = _bps(exploration.volatility_percentiles)
    tau, place = 1e4 * exploration.threshold, 100 * exploration.quantile
    shown = values > 0
    axes.plot(np.arange(101)[shown], values[shown], color=BLUE, lw=2)
    spikes = np.arange(101) >= place
    axes.fill_between(np.arange(101)[spikes], values[spikes], tau, color=ORANGE, alpha=0.18, lw=0)
    axes.axhline(tau, color=ORANGE, lw=1.2)
    axes.plot([place], [tau], "o", color=ORANGE, ms=6)
    axes.annotate(
        f"τ = {tau:.3g} bps, the {place:g}th percentile",
        (place, tau),
        (-8, 7),
        textcoords="offset points",
        ha="right",
        color=ORANGE,
    )
    _log_bps(axes.yaxis)
    axes.set_xlim(0, 100.5)
    axes.set_xlabel("percentile of rows")
    axes.set_ylabel(f"volatility of the next {exploration.horizon_s} s, bps")
    axes.set_title("Volatility to come, by percentile")
    return figure


def _threshold_cost(exploration: Exploration) -> Figure:
    figure, [[left, right]] = canvas(9, 3.6, 1, 2)
    quantiles = [one.quantile for one in exploration.thresholds]
    for axes, values, title, label in (
        (left, [one.alerts_per_hour for one in exploration.thresholds], "How often it would go off", "alerts an hour"),
        (
            right,
            [60 * one.share_of_time for one in exploration.thresholds],
            "How long it would stay on",
            "minutes of each hour under alert",
        ),
    ):
        axes.plot(quantiles, values, "o-", color=BLUE, ms=4, lw=1.8)
        axes.axvline(exploration.quantile, color=ORANGE, lw=1.2)
        at = quantiles.index(exploration.quantile)
        axes.annotate(
            f"{values[at]:.2g}", (quantiles[at], values[at]), (7, 6), textcoords="offset points", color=ORANGE
        )
        axes.set_ylim(bottom=0)
        axes.set_xlabel("quantile that the threshold is set to")
        axes.set_ylabel(label)
        axes.set_title(title)
    return figure


def _autocorrelation(exploration: Exploration) -> Figure | None:
    if len(exploration.lags) < 2:
        return None
    figure, [[axes]] = canvas(8, 3.6)
    minutes = np.array([lag.seconds for lag in exploration.lags]) / 60
    noise = 1.96 / np.sqrt([lag.pairs for lag in exploration.lags])
    axes.fill_between(minutes, -noise, noise, color=GREY, alpha=0.18, lw=0, label="95 % band of noise")
    axes.plot(minutes, [lag.volatility for lag in exploration.lags], "o-", color=BLUE, ms=4, label="log volatility")
    axes.plot(minutes, [lag.returns for lag in exploration.lags], "s-", color=ORANGE, ms=3.5, lw=1.2, label="return")
    axes.set_xscale("log")
    ticks = [t for t in (1, 2, 5, 10, 30, 60, 180, 360, 720, 1440, 2880) if minutes[0] <= t <= minutes[-1]]
    axes.set_xticks(ticks, [f"{t} min" if t < 60 else f"{t // 60} h" for t in ticks])
    axes.minorticks_off()
    axes.axhline(0, color=GREY, lw=0.8)
    axes.set_xlabel(f"lag (periods of {exploration.horizon_s} s that do not overlap)")
    axes.set_ylabel("autocorrelation")
    axes.set_title("Autocorrelation of volatility and of returns")
    axes.legend(loc="upper right", ncols=3, bbox_to_anchor=(1, 1.14))
    return figure


def _diurnal(exploration: Exploration) -> Figure:
    figure, axes_grid = canvas(8.5, 4.6, 2, 1, sharex=True, height_ratios=(3, 2))
    top, bottom = axes_grid[0][0], axes_grid[1][0]
    known = [one for one in exploration.hours_of_day if one.quartiles is not None and one.spike_rate is not None]
    hours = np.array([one.hour for one in known])
    low, middle, high = _bps([one.quartiles or (0, 0, 0) for one in known]).T
    top.vlines(hours, low, high, color=PALE, lw=9, label="middle half of the rows")
    top.plot(hours, middle, "o", color=BLUE, ms=5, label="median")
    top.set_ylabel("volatility to come, bps")
    top.set_ylim(bottom=0)
    top.set_title("By hour of the day")
    top.legend(loc="upper right", ncols=2, bbox_to_anchor=(1, 1.16))
    bottom.bar(hours, [one.spike_rate or 0.0 for one in known], width=0.75, color=BLUE)
    bottom.axhline(exploration.base_rate, color=ORANGE, lw=1.2)
    bottom.text(24, exploration.base_rate, " all", color=ORANGE, va="center", fontsize=8.5, clip_on=False)
    bottom.yaxis.set_major_formatter(_SHARE)
    bottom.set_ylabel("rows that are spikes")
    bottom.set_xlabel("hour, UTC (those without a median were not recorded)" if len(known) < 24 else "hour, UTC")
    bottom.set_xlim(-0.7, 23.7)
    bottom.set_xticks(range(0, 24, 3))
    return figure


def _days(exploration: Exploration) -> Figure:
    days = exploration.days
    figure, axes_grid = canvas(
        max(5.5, min(10.5, 2.5 + 0.32 * len(days))), 4.6, 2, 1, sharex=True, height_ratios=(3, 2)
    )
    top, bottom = axes_grid[0][0], axes_grid[1][0]
    place = np.arange(len(days))
    low, middle, high = _bps([one.quartiles for one in days]).T
    top.vlines(place, low, high, color=PALE, lw=9 if len(days) < 30 else 6, label="middle half of the rows")
    top.plot(place, middle, "o", color=BLUE, ms=5, label="median")
    top.axhline(1e4 * exploration.threshold, color=ORANGE, lw=1.2, label="τ")
    _log_bps(top.yaxis)
    top.set_ylabel("volatility to come, bps")
    top.set_title("By day")
    top.legend(loc="lower right", ncols=3, bbox_to_anchor=(1, 1.0))
    bottom.bar(place, [one.spike_rate for one in days], width=0.75 if len(days) > 5 else 0.4, color=BLUE)
    bottom.axhline(exploration.base_rate, color=ORANGE, lw=1.2)
    bottom.yaxis.set_major_formatter(_SHARE)
    bottom.set_ylabel("rows that are spikes")
    _day_labels(bottom, [one.day for one in days])
    return figure


def _day_labels(axes: Any, days: Sequence[str]) -> None:
    step = -(-len(days) // MOST_DAY_LABELS)
    axes.set_xticks(range(0, len(days), step), [day[5:] for day in days[::step]], rotation=60, ha="right", fontsize=8.5)
    axes.set_xlim(-0.7, len(days) - 0.3)
    years = days[0][:4] if days[0][:4] == days[-1][:4] else f"{days[0][:4]}-{days[-1][2:4]}"
    axes.set_xlabel(f"days of {years} that were recorded, UTC")


def _distributions(exploration: Exploration) -> Figure:
    figure, axes_grid = panels(len(exploration.features), PANELS_A_ROW, (2.1, 1.5), (0.1, 0.42))
    for axes, feature in zip(axes_grid.flat, exploration.features, strict=False):
        edges = np.linspace(*feature.histogram_range, len(feature.histogram) + 1)
        axes.stairs(feature.histogram, edges, fill=True, color=BLUE)
        axes.set_ylim(0, 1.05 * max(feature.histogram))
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        zeros = f"{feature.share_of_zeros:.0%} zeros" if feature.share_of_zeros >= 0.01 else ""
        axes.set_title(feature.name, fontsize=9)
        _few_ticks(axes, feature)
        axes.set_xlabel(", ".join(filter(None, ["" if feature.unit == "1" else feature.unit, zeros])), fontsize=8)
    heading(figure, "Features: how their values spread (0.1 % cut off at each end)")
    return figure


def _few_ticks(axes: Any, feature: Feature) -> None:
    start, stop = feature.histogram_range
    axes.set_xlim(start, stop)
    if feature.histogram_is_of_log10:
        whole = np.arange(np.ceil(start), np.floor(stop) + 1)
        places = whole if len(whole) > 1 else np.array([start + 0.12 * (stop - start), stop - 0.12 * (stop - start)])
        places = places[:: -(-len(places) // 4)]
        axes.set_xticks(places, [_power(one) if len(whole) > 1 else f"{10**one:.1g}" for one in places])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.tick_params(axis="x", labelsize=7.5)


def _power(exponent: float) -> str:
    return rf"$10^{{{round(exponent)}}}$"


def _told_apart(feature: Feature) -> float:
    """How far a feature alone tells spikes from the rest, whichever way round."""
    return abs((feature.roc_auc or 0.5) - 0.5)


def _deciles(exploration: Exploration) -> Figure:
    features = sorted(exploration.features, key=_told_apart, reverse=True)
    figure, grid = panels(len(features), PANELS_A_ROW, (2.1, 1.55), (0.42, 0.45))
    top = max((rate or 0.0) for one in features for rate in one.spike_rate_by_decile)
    for axes, feature in zip(grid.flat, features, strict=False):
        rates = [np.nan if rate is None else rate for rate in feature.spike_rate_by_decile]
        axes.bar(np.arange(1, 11), rates, width=0.8, color=BLUE)
        axes.axhline(exploration.base_rate, color=ORANGE, lw=1)
        axes.set_ylim(0, 1.08 * top)
        axes.set_xticks([1, 10], ["lowest", "highest"], fontsize=7.5)
        axes.yaxis.set_major_formatter(_SHARE)
        axes.tick_params(axis="y", labelsize=7.5)
        axes.set_title(feature.name, fontsize=9)
        score = "-" if feature.roc_auc is None else f"{feature.roc_auc:.2f}"
        axes.set_xlabel(f"ROC-AUC {score}{' of |x|' if feature.by_size else ''}", fontsize=8)
    heading(figure, "Rows that are spikes, by tenth of the feature (line: all rows), most telling first")
    return figure


def _correlation(exploration: Exploration) -> Figure:
    names = [one.name for one in exploration.features]
    matrix = np.array(exploration.correlations)
    size = 3.2 + 0.27 * len(names)
    figure, [[axes]] = canvas(size + 0.8, size)
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, shrink=0.6, label="rank correlation").outline.set_visible(False)
    axes.set_title("Features with one another (Spearman)")
    return figure


def _stability(exploration: Exploration) -> Figure | None:
    if len(exploration.days) < 2:
        return None
    names = [one.name for one in exploration.features]
    matrix = np.array([day.shifts for day in exploration.days]).T
    figure, [[axes]] = canvas(max(6.0, 3.6 + 0.27 * len(exploration.days)), 1.4 + 0.23 * len(names))
    image = axes.imshow(np.clip(matrix, -2, 2), cmap="PuOr_r", vmin=-2, vmax=2, aspect="auto")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    _day_labels(axes, [day.day for day in exploration.days])
    axes.set_xlim(-0.5, len(exploration.days) - 0.5)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, label="shift, interquartile ranges", extend="both")
    bar.outline.set_visible(False)
    axes.set_title("How far each day's median lies from the median of all days")
    return figure
