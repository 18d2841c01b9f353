from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from tests.training.evaluation.made_up import scored
from training.evaluation import ModelEval, Settings, evaluate_scored
from training.evaluation.page import page
from training.evaluation.plots import pictures
from training.evaluation.result import Figure
from training.evaluation.words import findings, interval_text, number
from training.scored import Scored

PNG = b"\x89PNG\r\n\x1a\n"


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


def test_rows_of_one_class_leave_out_what_cannot_be_drawn() -> None:
    quiet = [scored(rows=700, threshold=1e9)]
    evaluation = evaluate_scored(quiet, "logistic", Settings(resamples=40, group_resamples=20))
    drawn = pictures(evaluation, quiet)
    assert drawn.keys() == {"reliability.png", "percentiles.png", "over_time.png"}
    assert "no row is a spike" in page(evaluation, drawn)


def test_the_bad_is_said_with_the_good(parts: list[Scored]) -> None:
    worst_first = evaluate_scored(parts, "har", Settings(resamples=40, group_resamples=20))
    lines = " | ".join(findings(worst_first))
    assert "HAR logit IS BEATEN by logistic" in lines
    assert "On the final part the better ROC-AUC is that of logistic" in lines


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.12346, "0.1235"), (1.5, "1.50"), (12345.6, "12,346"), (2e-5, "2e-05")]
)
def test_numbers_have_the_digits_that_matter(value: float, text: str) -> None:
    assert number(value) == text


def test_an_interval_that_is_not_known_is_not_made_up() -> None:
    assert interval_text(Figure(0.5, None, None)) == "not known"
    assert interval_text(Figure(0.5, -0.1, 0.25), signed=True) == "-0.100 to +0.250"
