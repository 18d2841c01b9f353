"""Processes killed with SIGKILL: committed records equal the oracle. The long form: `python -m benchmarks.faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.course import Setup
from benchmarks.faults.runs import SHORT, run

pytestmark = [pytest.mark.kafka, pytest.mark.process]


def test_after_kills_of_every_process_nothing_is_lost_repeated_or_altered(tmp_path: Path) -> None:
    result = run(SHORT, tmp_path, Setup())
    assert result.oracle == "archive"
    assert result.verdict.rows > 1000
    assert result.verdict.predictions > 500
    assert result.verdict.faults == 0, result.verdict
