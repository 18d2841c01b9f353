"""Rows that one command stored are those that another one reads."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.stored import store, stored
from benchmarks.targets import Row, at_least, at_most, paired_row


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [
        Row(what="health checks", unit="ms", ours=12.5, target=at_most(50, "ms")),
        paired_row("calls", "calls/s", [3, 4], "echo", [2, 2], target=at_least(1.0)),
    ]
    store("attacks", "python -m benchmarks.abuse", rows, tmp_path)
    kept = stored("attacks", tmp_path)
    assert kept is not None
    assert list(kept.rows) == rows
    assert kept.command == "python -m benchmarks.abuse"


def test_the_file_tells_ratio_and_verdict(tmp_path: Path) -> None:
    row = paired_row("calls", "calls/s", [3, 4], "echo", [4, 4], target=at_least(1.0))
    (kept,) = msgspec.json.decode(store("calls", "", [row], tmp_path).read_bytes())["rows"]
    assert (kept["ratio"], kept["reached"]) == (pytest.approx(0.875), False)


def test_what_was_never_stored_is_none(tmp_path: Path) -> None:
    assert stored("attacks", tmp_path) is None
