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


def test_the_report_stands_alone_and_says_our_figures(tmp_path: Path) -> None:
    then, now = stretch("then", 1), stretch("now", 2)
    summary = compare(then, now)
    files = write_report(then, now, summary, tmp_path / "evidently", "drift")
    assert (
        [path.name for path in files]
        == ["drift.html", "drift.json"]
        == sorted(path.name for path in (tmp_path / "evidently").iterdir())
    )
    metrics = json.loads(files[1].read_text())["metrics"]
    values = {one["config"]["column"]: one["value"] for one in metrics if "ValueDrift" in one["metric_name"]}
    assert values == pytest.approx({one.column: one.psi for one in summary.columns})
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", files[0].read_text()), "it needs the network"


def test_where_it_cannot_be_written_that_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    then, now = stretch("then", 1), stretch("now", 2)
    with pytest.raises(InputError, match="taken: cannot be written"):
        write_report(then, now, compare(then, now), tmp_path / "taken", "drift")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
