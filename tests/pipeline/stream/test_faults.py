"""Processes killed with SIGKILL: committed records equal the oracle. The long form: `python -m benchmarks.faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults import SHORT, run

pytestmark = [pytest.mark.kafka, pytest.mark.process]


def test_after_kills_of_every_process_nothing_is_lost_repeated_or_altered(tmp_path: Path) -> None:
    verdict, done = run(SHORT, tmp_path)
    assert done["worker killed"] == SHORT.worker_kills
    assert done["of them while the server was down"] == SHORT.of_them_without_server
    assert verdict.rows > 1000
    assert verdict.predictions > 500
    assert verdict.faults == 0, verdict
