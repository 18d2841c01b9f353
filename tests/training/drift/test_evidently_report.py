"""Evidently's report, on as few columns as show it: its import alone takes seconds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from training.drift.evidently_report import write_report
from training.drift.summary import Stretch, compare


def stretch(name: str, seed: int) -> Stretch:
    return Stretch(name, 0, 10**9, {"volatility": seed * np.random.default_rng(seed).lognormal(size=200)})


def test_the_report_needs_no_network_and_has_the_figures_of_the_table(tmp_path: Path) -> None:
    then, now = stretch("then", 1), stretch("now", 2)
    summary = compare(then, now)
    files = write_report(then, now, summary, tmp_path / "evidently")
    assert (
        [path.name for path in files]
        == ["evidently_report.html", "evidently_report.json"]
        == sorted(path.name for path in (tmp_path / "evidently").iterdir())
    )
    metrics = json.loads(files[1].read_text())["metrics"]
    values = {each["config"]["column"]: each["value"] for each in metrics if "ValueDrift" in each["metric_name"]}
    (column,) = summary.columns
    assert column.psi is not None
    assert column.limit is not None
    assert values == pytest.approx({"volatility": column.psi / column.limit})
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", files[0].read_text()), "it needs the network"


def test_a_folder_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    then, now = stretch("then", 1), stretch("now", 2)
    with pytest.raises(InputError, match="taken: cannot be written"):
        write_report(then, now, compare(then, now), tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
