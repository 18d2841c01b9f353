"""The report on disk: index.html, exploration.json, a PNG for each picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from common.errors import InputError
from training.reporting.explore.figures import PERCENTILES
from training.reporting.explore.plots import CAPTIONS
from training.reporting.explore.result import Exploration, Period
from training.reporting.forecast_page import Cell, ForecastReport, ReportTable, TableRow, Tile, render

PAGE, FIGURES = "index.html", "exploration.json"
METHOD = (
    "Rows are the training part of `volcast train`: the last fifth of every recording judges models and is left out, "
    "with rows whose windows reach into it. The outcome is the realized volatility of mids every 5 s. A base rate is "
    "the share of rows at or above a spike size. Correlations of features with both signs are of absolute values."
)


def page(exploration: Exploration, pictures: Mapping[str, bytes]) -> str:
    """The whole document; it makes no request."""
    tiles = (
        Tile(f"{exploration.rows:,}", "rows"),
        Tile(f"{exploration.hours:.1f} h", "recorded"),
        Tile(f"{exploration.spike_bps:.3g} bps", "default spike size"),
        Tile(f"{exploration.gaps:,}", "gaps"),
    )
    report = ForecastReport(
        title=f"{exploration.kind} of {', '.join(exploration.products)}",
        subtitle=f"{exploration.start} to {exploration.end}, {exploration.schema}, {len(exploration.files)} files",
        verdict=f"{exploration.counts['ticks']:,} ticks read, {dropped(exploration)} dropped; "
        f"{exploration.rows_left_out:,} rows left out for judging.",
        tiles=tiles,
        checks=(),
        pictures=pictures,
        tables=_tables(exploration),
        method=METHOD,
        captions=CAPTIONS,
    )
    return render(report)


def dropped(exploration: Exploration) -> str:
    """The dropped ticks by reason, in words."""
    counts = {name: n for name, n in exploration.counts.items() if n and name not in ("ticks", "gaps", "rows")}
    return ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in counts.items()) or "nothing"


def write(folder: Path, exploration: Exploration, pictures: Mapping[str, bytes]) -> list[Path]:
    """Writes the files, each complete or not at all, and returns their paths, the page first.

    Raises InputError if the disk refuses.
    """
    contents = {
        PAGE: page(exploration, pictures).encode(),
        FIGURES: msgspec.json.format(msgspec.json.encode(exploration), indent=1) + b"\n",
        **{f"{name}.png": content for name, content in pictures.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            unfinished = folder / f".{name}.unfinished"
            try:
                unfinished.write_bytes(content)
                unfinished.replace(folder / name)
            finally:
                unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return [folder / name for name in contents]


def _tables(exploration: Exploration) -> tuple[ReportTable, ...]:
    sizes = [
        (f"q{100 * each.quantile:g}", f"{each.spike_bps:.3g}", f"{each.base_rate:.1%}",
         f"{each.alerts_per_hour:.2f}", f"{each.share_of_time:.1%}")
        for each in exploration.sizes
    ]  # fmt: skip
    features = [
        (each.name, f"{each.rank_correlation:+.3f}", f"{each.halves[0]:+.3f}", f"{each.halves[1]:+.3f}",
         *(f"{each.percentiles[PERCENTILES.index(percentile)]:.3g}" for percentile in (5, 50, 95)),
         f"{each.share_of_zeros:.1%}")
        for each in sorted(exploration.features, key=lambda each: -abs(each.rank_correlation))
    ]  # fmt: skip
    notes = " ".join(f"{note}." for note in exploration.notes)
    period_heads = ("rows", "recorded", "base rate", "median, bps")
    return (
        _table("Spike sizes", ("quantile", "size, bps", "base rate", "alerts per hour", "time under alert"), sizes),
        _table(
            "Features",
            ("feature", "rank correlation", "first half", "second half", "5 %", "median", "95 %", "zeros"),
            features,
            notes,
        ),
        _table("Hours of the day, UTC", ("hour", *period_heads), map(period_cells, exploration.hours_of_day)),
        _table("Days", ("day", *period_heads), map(period_cells, exploration.days)),
    )


def period_cells(period: Period) -> tuple[str, ...]:
    """Name, rows, recorded time, base rate and median outcome, as text."""
    median = f"{period.quartiles_bps[1]:.3g}"
    return period.name, f"{period.rows:,}", f"{period.hours:.1f} h", f"{period.base_rate:.1%}", median


def _table(title: str, heads: tuple[str, ...], rows: Iterable[tuple[str, ...]], note: str = "") -> ReportTable:
    return ReportTable(title, heads, tuple(TableRow(tuple(map(Cell, row))) for row in rows), note)
