from __future__ import annotations

from pathlib import Path

from training.judging.evaluation.figures import METRICS
from training.reporting.evaluation_format import MEANINGS, render


def test_the_page_says_what_the_structs_say() -> None:
    page = (Path(__file__).parents[3] / "docs" / "model_eval.md").read_text()
    assert page == render(), "write it again: make docs"


def test_every_metric_has_a_meaning() -> None:
    assert MEANINGS.keys() == METRICS.keys()
