from __future__ import annotations

from pathlib import Path

from training.reporting.evaluation_format import render
from training.reporting.evaluation_tables import METRICS


def test_the_page_is_made_from_the_structs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "model_eval.md").read_text()
    assert page == render(), "write it again: make docs"


def test_the_page_defines_every_metric_of_the_report() -> None:
    page = render()
    covers = [name for name in METRICS if not name.startswith("coverage_")]
    assert [name for name in covers if f"`{name}`" not in page] == []
