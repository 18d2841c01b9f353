"""Pictures of forecasts, as PNG bytes. Each is as wide as a page for a phone shows without shrinking its text much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator, PercentFormatter
from numpy.typing import NDArray

from common.errors import InputError
from training.judging.alerts import CostCurve
from training.judging.comparison import RowGroups
from training.judging.events import EventScores
from training.reporting.report_style import BLUE, GREEN, GREY, ORANGE, PALE, STYLE, canvas, png

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FAN_LEVELS: Floats = np.array([0.025, 0.1, 0.5, 0.9, 0.975])
PIT_BINS = 20
RELIABILITY_BINS = 10
WIDTH = 4.7  # inches: 611 pixels
FAINT = "#d3e1ef"
# Okabe and Ito's colours, from the smallest size to the largest.
SIZE_COLOURS = ("#56b4e9", "#0b5394", "#009e73", "#e69f00", "#d55e00")
PROBABILITY_TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99)
SHOWN_PROBABILITIES = (0.0005, 0.995)  # rates of 0 and 1 lie on the edges


@dataclass(frozen=True, slots=True)
class SizeScores:
    """Events and probabilities at a spike size, of the same rows."""

    size_bps: float
    scores: EventScores


def fan_chart(time_ns: Ints, quantiles_bps: Floats, outcome_bps: Floats) -> bytes:
    """The forecasts of a stretch of a product's rows with the outcomes. quantiles_bps: at FAN_LEVELS, (n, 5)."""
    times = [datetime.fromtimestamp(time / 1e9, UTC) for time in time_ns.tolist()]
    figure, axes = _axes(3.6)
    axes.fill_between(times, quantiles_bps[:, 0], quantiles_bps[:, 4], color=FAINT, linewidth=0, label="95 %")
    axes.fill_between(times, quantiles_bps[:, 1], quantiles_bps[:, 3], color=PALE, linewidth=0, label="80 %")
    axes.plot(times, quantiles_bps[:, 2], color=BLUE, linewidth=1.6, label="median")
    axes.plot(times, outcome_bps, color=ORANGE, linewidth=1.1, label="outcome")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))  # type: ignore[no-untyped-call]
    axes.set(xlim=(times[0], times[-1]), ylabel="volatility of the next minute, bps")
    axes.set_xlabel(f"{times[0]:%Y-%m-%d}, UTC")
    _legend(figure, axes, 4)
    return _drawn(figure)


def pit_histogram(pit: Floats) -> bytes:
    """The share of rows in each of PIT_BINS bins against the share of a calibrated forecast."""
    counts, edges = np.histogram(pit, np.linspace(0, 1, PIT_BINS + 1))
    figure, axes = _axes(2.9)
    axes.bar(edges[:-1], counts * PIT_BINS / len(pit), 1 / PIT_BINS, align="edge", color=PALE, edgecolor="white")
    axes.axhline(1, color=ORANGE, linewidth=1.4, label="a calibrated forecast")
    axes.set(xlim=(0, 1), xlabel="where the outcome lies in its forecast (PIT)", ylabel="density")
    axes.grid(axis="x", visible=False)
    _legend(figure, axes, 1)
    return _drawn(figure)


def reliability(sizes: Sequence[SizeScores]) -> bytes:
    """The rate of events against the mean probability, in tenths of the rows, at up to five sizes."""
    if not 0 < len(sizes) <= len(SIZE_COLOURS):
        raise InputError(f"reliability: expected 1 to {len(SIZE_COLOURS)} sizes, got {len(sizes)}")
    figure, axes = _axes(4.4)
    ends = SHOWN_PROBABILITIES
    line = np.linspace(*ends, 500)
    axes.plot(line, line, color=GREY, linewidth=1, linestyle="--")
    for size, colour in zip(sizes, SIZE_COLOURS, strict=False):
        claimed, observed = reliability_bins(size.scores)
        label = f"{size.size_bps:.3g} bps (reached by {size.scores.event.mean():.1%})"
        axes.plot(
            np.clip(claimed, *ends), np.clip(observed, *ends), color=colour, marker="o", markersize=4, label=label,
            linewidth=1.4, clip_on=False,
        )  # fmt: skip
    axes.set(xscale="logit", yscale="logit", xlim=ends, ylim=ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(list(PROBABILITY_TICKS)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
        axis.set_minor_locator(NullLocator())
    axes.set(xlabel="mean probability of a tenth of the rows", ylabel="rate of events")
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    return _drawn(figure)


def reliability_bins(scores: EventScores) -> tuple[Floats, Floats]:
    """Mean probability and rate of events in tenths of the rows by probability, (RELIABILITY_BINS,) each or fewer."""
    order = np.argsort(scores.probability, kind="stable")
    parts = [part for part in np.array_split(order, RELIABILITY_BINS) if len(part)]
    claimed = np.array([scores.probability[part].mean() for part in parts])
    return claimed, np.array([scores.event[part].mean() for part in parts])


def coverage_by_day(days: RowGroups, covered_80: Floats, covered_95: Floats) -> bytes:
    """The share of each day's outcomes that the 80 and 95 % intervals cover. covered: (n,)."""
    rows = np.bincount(days.of_row, minlength=len(days.names))
    figure, axes = _axes(3.0)
    at = np.arange(len(days.names))
    for claimed, values, colour in ((0.95, covered_95, GREEN), (0.8, covered_80, BLUE)):
        shares = np.bincount(days.of_row, values, len(days.names)) / np.maximum(rows, 1)
        axes.axhline(claimed, color=colour, linewidth=1, linestyle="--")
        axes.plot(at, shares, "o", color=colour, markersize=5, label=f"{claimed:.0%} interval", clip_on=False)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    shown = at[:: max(1, -(-len(at) // 8))]
    axes.set_xticks(shown, [days.names[place][5:] for place in shown])
    low, _ = axes.get_ylim()
    axes.set(ylim=(min(low, 0.65), 1.0), xlim=(-0.5, len(at) - 0.5), ylabel="outcomes covered", xlabel="day, UTC")
    _legend(figure, axes, 2)
    return _drawn(figure)


def cost_curve(model: CostCurve, har: CostCurve) -> bytes:
    """Cost per hour of the best alert level of each, with alerts always, never and perfect, by the cost of an alarm."""
    figure, axes = _axes(3.5)
    bottom = float(model.perfect.min()) or -1.0  # 0 without spikes
    axes.plot(model.ratios, model.always, color=GREY, linewidth=1.2, linestyle=":", label="always")
    axes.plot(model.ratios, model.never, color=GREY, linewidth=1.2, linestyle="--", label="never")
    axes.plot(model.ratios, model.perfect, color=GREEN, linewidth=1.2, label="perfect")
    axes.plot(har.ratios, har.cost, color=ORANGE, linewidth=1.6, label="HAR")
    axes.plot(model.ratios, model.cost, color=BLUE, linewidth=2.2, label="model")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlim=(model.ratios[0], model.ratios[-1]), ylim=(1.05 * bottom, -0.35 * bottom))
    axes.set(xlabel="cost of an alarm / value of a caught spike", ylabel="cost per hour")
    _legend(figure, axes, 5)
    return _drawn(figure)


def _axes(height: float) -> tuple[Figure, Any]:
    with rc_context(STYLE):
        figure, grid = canvas(WIDTH, height)
    return figure, grid[0, 0]


def _legend(figure: Figure, axes: Any, columns: int) -> None:
    """Above the axes, so that it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9, handlelength=1.2,
        columnspacing=1.0, borderpad=0.0,
    )  # fmt: skip


def _drawn(figure: Figure) -> bytes:
    with rc_context(STYLE):
        return png(figure)
