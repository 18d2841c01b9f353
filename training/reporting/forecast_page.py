"""A report of forecasts as a single HTML page: pictures are inside, and the page makes no request."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from common.check import Check
from training.judging.blocks import DECISION_RESAMPLES
from training.judging.comparison import Interval

FOLDED_ROWS = 8  # longer tables are folded
CAPTIONS = {
    "fan_chart": "An hour of forecasts with the outcomes. Four of five outcomes should lie in the darker band.",
    "pit": "Bars above the line: more outcomes lie in this part of the forecast than it claims.",
    "reliability": "Five spike sizes from the same model. Points below the diagonal: the probability is too high.",
    "coverage_by_day": "A dot on its dashed line: the intervals cover as many outcomes as they claim.",
    "cost_curve": "Cost in values of a caught spike. Lower is better; alerts below zero are worth sending.",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """detail: small, below the text. tone: "better", "worse" or ""."""

    text: str
    detail: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class TableRow:
    cells: tuple[Cell, ...]
    mine: bool = False  # the model that the page is about


@dataclass(frozen=True, slots=True)
class ReportTable:
    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    value: str
    name: str


@dataclass(frozen=True, slots=True)
class ForecastReport:
    """What the page shows. pictures: names of the captions -> PNG. captions: CAPTIONS by default."""

    title: str
    subtitle: str
    verdict: str
    tiles: Sequence[Tile]
    checks: Sequence[Check]
    pictures: Mapping[str, bytes]
    tables: Sequence[ReportTable]
    method: str
    captions: Mapping[str, str] | None = None


def render(report: ForecastReport) -> str:
    """The whole document; every text is escaped."""
    pictures = [
        {"caption": caption, "base64": base64.b64encode(report.pictures[name]).decode()}
        for name, caption in (report.captions or CAPTIONS).items()
        if name in report.pictures
    ]
    return _template().render(
        title=report.title,
        subtitle=report.subtitle,
        verdict=report.verdict,
        tiles=report.tiles,
        checks=report.checks,
        pictures=pictures,
        tables=report.tables,
        method=report.method,
        folded_rows=FOLDED_ROWS,
    )


def difference_cell(difference: Interval) -> Cell:
    """A difference of scores, of which less is better, coloured if the interval excludes 0."""
    if difference.low is None or difference.high is None:
        return Cell(f"{difference.point:+.4f}", f"{difference.blocks} blocks: no interval")
    tone = "better" if difference.lies_below(0) else "worse" if difference.lies_above(0) else ""
    return Cell(f"{difference.point:+.4f}", f"{difference.low:+.4f} to {difference.high:+.4f}", tone)


def method_text(block_s: float, seed: int, embargo_s: float) -> str:
    return (
        "CRPS is on log volatility and decides; less is better. Folds follow time, with training rows at least "
        f"{embargo_s:,.0f} s before the rows that score them. Intervals hold 95 % and come from "
        f"{DECISION_RESAMPLES:,} draws of whole blocks of {block_s:,.0f} s, seed {seed}; both models see the "
        "same draws. A base rate is the share of training rows at or above a spike size."
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("training.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("forecast.html")
