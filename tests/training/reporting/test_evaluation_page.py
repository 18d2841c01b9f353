from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from tests.training.judging.evaluation.made_up import scored, with_spikes
from training.judging.evaluation import ModelEval, Settings, evaluate_scored
from training.judging.scored_part import Scored
from training.problem.labels import labels
from training.reporting import evaluation_plots as plots
from training.reporting.evaluation_page import page
from training.reporting.evaluation_plots import pictures
from training.reporting.report_style import STYLE

pytestmark = pytest.mark.slow

PNG = b"\x89PNG\r\n\x1a\n"
FEW = Settings(resamples=40, group_resamples=20)


@pytest.fixture(scope="module")
def parts() -> list[Scored]:
    return [scored("fold 1", rows=1500, seed=1), scored("final", rows=1500, seed=2, start_s=5000)]


@pytest.fixture(scope="module")
def evaluation(parts: list[Scored]) -> ModelEval:
    return evaluate_scored(parts, "logistic", Settings(resamples=40, group_resamples=20), products=["BTC-USD"])


@pytest.fixture(scope="module")
def drawn(evaluation: ModelEval, parts: list[Scored]) -> dict[str, bytes]:
    return pictures(evaluation, parts)


class _Checker(HTMLParser):
    """Notes whatever is fetched, and tags that do not close in order."""

    VOID = ("meta", "br", "img")

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_asks_nothing_of_any_host(evaluation: ModelEval, drawn: dict[str, bytes]) -> None:
    text = page(evaluation, drawn)
    checker = _Checker()
    checker.feed(text)
    assert checker.open == []
    assert len(checker.sources) == len(drawn)
    assert all(one.startswith("data:image/png;base64,") for one in checker.sources)
    assert not re.search(r"https?://|@import|url\(|<script", text)
    assert "default-src 'none'" in text


def test_the_page_says_every_metric_and_names_every_model(evaluation: ModelEval, drawn: dict[str, bytes]) -> None:
    text = page(evaluation, drawn)
    words = (
        "PR-AUC",
        "ECE",
        "median lead time",
        "HAR logit",
        "z-score",
        "earlier parts",
        "2025-12-01",
        "BTC-USD",
        "lively",
    )
    assert [word for word in words if word not in text] == []


def test_names_from_outside_cannot_write_into_the_page(parts: list[Scored]) -> None:
    found = evaluate_scored(
        parts[1:], "logistic", Settings(resamples=40, group_resamples=20), products=["<img src=x onerror=alert(1)>"]
    )
    assert "<img src=x" not in page(found, {})


def test_each_picture_is_a_png_and_the_same_one_every_time(
    evaluation: ModelEval, parts: list[Scored], drawn: dict[str, bytes]
) -> None:
    names = "reliability precision_recall percentiles over_time by_day by_hour by_regime differences"
    assert drawn.keys() == {f"{name}.png" for name in names.split()}
    assert all(one.startswith(PNG) and len(one) > 5000 for one in drawn.values())
    assert pictures(evaluation, parts) == drawn


@pytest.mark.parametrize(
    ("spikes", "counted"),
    [
        (0, "none of 700 rows is a spike"),
        (9, "9 of 700 rows are spikes"),
        (691, "691 of 700 rows are spikes"),
        (700, "all 700 rows are spikes"),
    ],
)
def test_where_a_class_has_too_few_rows_no_picture_of_ranks_is_drawn_and_the_page_begins_with_it(
    spikes: int, counted: str
) -> None:
    thin = [with_spikes(spikes)]
    evaluation = evaluate_scored(thin, "logistic", FEW)
    drawn = pictures(evaluation, thin)
    assert drawn.keys() == {"reliability.png", "percentiles.png", "over_time.png"}
    text = page(evaluation, drawn)
    assert text.index(counted) < text.index('<div class="tiles">')
    assert text.count("Nothing about ranking can be concluded") == 1
    assert "Right:" not in text


def test_the_differences_of_the_folds_are_drawn_though_the_last_part_has_too_few_spikes() -> None:
    parts = [scored("fold 1", rows=1500, seed=1), with_spikes(4, rows=1500, start_s=5000)]
    assert "differences.png" in pictures(evaluate_scored(parts, "logistic", FEW), parts)


def test_groups_without_a_bar_and_hours_without_a_row_are_named_beside_the_picture() -> None:
    lively = scored(rows=5000)
    volatility = np.where(np.arange(5000) < 3600, 0.1, lively.future_volatility)
    part = replace(lively, future_volatility=volatility, y=labels(volatility, lively.threshold))
    evaluation = evaluate_scored([part], "logistic", FEW)
    drawn = pictures(evaluation, [part])
    text = page(evaluation, drawn)
    told = (
        "No bar, for want of 10 rows of each class: 05 (none of 3,600 rows is a spike)",
        "No row at all in 22 of the 24 hours: 00 to 04, 07 to 23",
    )
    assert "by_hour.png" in drawn
    assert [text.count(one) for one in told] == [3, 3]  # the note, and the picture's caption and its alternative text


@pytest.mark.parametrize("picture", ["percentiles", "reliability"])
def test_a_legend_covers_no_curve(evaluation: ModelEval, parts: list[Scored], picture: str) -> None:
    part = evaluation.headline
    with matplotlib.rc_context(STYLE):
        if picture == "percentiles":
            canvas = plots._percentiles(part, parts[-1], "logistic")
        else:
            canvas = plots._reliability(part, "logistic")
        canvas.draw_without_rendering()
        legends = [(axes, legend) for axes in canvas.axes if (legend := axes.get_legend()) is not None]
        assert len(legends) == 1
        for axes, legend in legends:
            assert not legend.get_window_extent().overlaps(axes.get_window_extent())
