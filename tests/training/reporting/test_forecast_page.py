"""The page of a report: what it shows, escapes, folds and leaves out."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from common.check import Check
from training.judging.comparison import Interval
from training.reporting.forecast_page import (
    CAPTIONS,
    FOLDED_ROWS,
    Cell,
    ForecastReport,
    ReportTable,
    TableRow,
    Tile,
    difference_cell,
    method_text,
    render,
)

BETTER, WORSE, UNKNOWN = Interval(-0.1, -0.2, -0.05, 9), Interval(0.1, 0.05, 0.2, 9), Interval(0.1, None, None, 2)


def table(rows: int, columns: int) -> ReportTable:
    names = tuple(f"column {number}" for number in range(columns))
    cells = tuple(Cell(f"cell {number}") for number in range(columns))
    return ReportTable("Scores", names, tuple(TableRow(cells, mine=row == 0) for row in range(rows)))


REPORT = ForecastReport(
    title="Forecasts of volcast 7",
    subtitle="ridge · 2025-12-01",
    verdict="It beats HAR.",
    tiles=[Tile("0.2175", "CRPS")],
    checks=[Check("skill", True, "better than HAR"), Check("coverage", False, "off by 4 points")],
    pictures={"pit": b"\x89PNG"},
    tables=[table(3, 4)],
    method=method_text(3660, 0, 3660),
)


def test_the_page_shows_all_parts() -> None:
    page = render(REPORT)
    for text in (REPORT.title, REPORT.subtitle, REPORT.verdict, "0.2175", "better than HAR", "cell 3", CAPTIONS["pit"]):
        assert text in page
    assert page.count("<tr") == 1 + 3
    assert page.count('class="mine"') == 1
    assert '<span class="passed">passed</span>' in page
    assert '<span class="refused">refused</span>' in page
    assert 'src="data:image/png;base64,iVBORw=="' in page


def test_the_page_makes_no_request_and_runs_no_script() -> None:
    page = render(REPORT)
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|<script|<link", page)


def test_texts_are_escaped() -> None:
    strange = "<b>&\"'"
    page = render(
        replace(
            REPORT,
            title=strange,
            checks=[Check(strange, True, strange)],
            tables=[ReportTable(strange, (strange,), (TableRow((Cell(strange, strange),)),), strange)],
        )
    )
    assert strange not in page
    assert page.count("&lt;b&gt;&amp;&#34;&#39;") == 10


def test_only_pictures_that_were_drawn_are_shown_in_the_order_of_the_captions() -> None:
    page = render(replace(REPORT, pictures={"cost_curve": b"b", "fan_chart": b"a"}))
    assert [page.index(CAPTIONS[name]) for name in ("fan_chart", "cost_curve")] == sorted(
        page.index(CAPTIONS[name]) for name in ("fan_chart", "cost_curve")
    )
    assert page.count("<img") == 2
    assert "<h2>Pictures</h2>" not in render(replace(REPORT, pictures={}))
    assert "<h2>Gate</h2>" not in render(replace(REPORT, checks=[]))


@pytest.mark.parametrize(("rows", "folded"), [(FOLDED_ROWS, False), (FOLDED_ROWS + 1, True)])
def test_long_tables_are_folded(rows: int, folded: bool) -> None:
    assert ("<details>" in render(replace(REPORT, tables=[table(rows, 3)]))) is folded


@pytest.mark.parametrize(("columns", "wide"), [(4, False), (5, True)])
def test_wide_tables_become_lists_on_a_phone(columns: int, wide: bool) -> None:
    page = render(replace(REPORT, tables=[table(2, columns)]))
    assert ('<table class="wide">' in page) is wide
    assert page.count('data-column="column 1"') == 2


def test_a_difference_is_coloured_if_its_interval_excludes_zero() -> None:
    assert difference_cell(BETTER) == Cell("-0.1000", "-0.2000 to -0.0500", "better")
    assert difference_cell(WORSE).tone == "worse"
    assert difference_cell(Interval(-0.1, -0.2, 0.0, 9)).tone == ""
    assert difference_cell(UNKNOWN) == Cell("+0.1000", "2 blocks: no interval")
