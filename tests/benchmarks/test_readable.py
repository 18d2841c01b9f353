"""Latency of committed predictions: which cells have targets, and that the picture holds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.readable import LATENCY_INTERVAL_MS, RATES_PER_S, Cell, plot, rows

CELLS = [Cell(interval, rate, 10.0 + interval, 60.0) for interval in (LATENCY_INTERVAL_MS, 100) for rate in RATES_PER_S]
HIGHEST = {LATENCY_INTERVAL_MS: 60_000.0, 100: 90_000.0}


def test_the_advised_interval_alone_has_targets() -> None:
    measured = rows(CELLS, HIGHEST)
    assert len(measured) == 2 * len(CELLS) + len(HIGHEST)
    targets = {row.what: row.reached for row in measured if row.target is not None}
    load = f"tick to readable prediction, commit every {LATENCY_INTERVAL_MS} ms, 1,000 ticks/s"
    assert targets == {f"{load}, p50": True, f"{load}, p99": False}


def test_the_picture_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(CELLS, HIGHEST, tmp_path / "img" / "latency.png")
    assert (tmp_path / "img" / "latency.png").read_bytes().startswith(b"\x89PNG")
