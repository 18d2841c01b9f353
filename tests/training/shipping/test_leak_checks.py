"""The gate refuses each way in which a training run may know the future, and accepts the honest run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.check import Check
from common.model_store import ModelStore
from tests.training import runs
from tests.training.runs import Change, Made, late, make
from training.judging.gate import GateLimits
from training.problem.forecast_rows import ForecastRows, pooled
from training.shipping import promotion
from training.shipping.leak_checks import series_of
from training.shipping.look_ahead import look_ahead

pytestmark = pytest.mark.process  # a run records the commit, which git describes

LIMITS = GateLimits(max_latency_us=1000.0)


def verdicts(made: Made, folder: Path) -> dict[str, Check]:
    judged = promotion.judge(made.write(folder / "runs"), ModelStore(folder / "models", "volatility"), LIMITS)
    return {check.name: check for check in judged.checks}


def refused(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if not check.passed}


def test_the_honest_model_is_accepted_by_every_check(tmp_path: Path) -> None:
    checks = verdicts(runs.first(), tmp_path)
    assert list(checks) == [
        *("schema", "parity", "reported", "purged", "skill", "coverage", "calibration", "champion", "latency"),
        *("repeated rows", "time order", "look-ahead", "neighbours", "foresight", "hindsight", "placebo"),
    ]
    assert refused(checks) == set()


@pytest.mark.parametrize(
    ("change", "by"),
    [
        (runs.shuffled, {"look-ahead", "neighbours", "hindsight"}),
        (runs.copy_of_the_future, {"look-ahead", "foresight", "hindsight"}),
        (lambda rows: late(rows, 5), {"look-ahead"}),
        (lambda rows: late(rows, 30), {"look-ahead", "hindsight"}),
        (runs.final_part_copied, {"repeated rows", "look-ahead"}),
    ],
    ids=["shuffled", "noisy copy of the future", "5 rows late", "30 rows late", "final part copied"],
)
def test_each_leak_is_refused(change: Change, by: set[str], tmp_path: Path) -> None:
    assert by <= refused(verdicts(make(change=change), tmp_path))


def test_a_run_whose_rows_were_not_computed_again_is_refused(tmp_path: Path) -> None:
    checks = verdicts(replace(runs.first(), look_ahead=None), tmp_path)
    assert refused(checks) == {"look-ahead"}
    assert "train on recordings, not on files of features" in checks["look-ahead"].text


def test_rows_out_of_order_are_refused(tmp_path: Path) -> None:
    made = runs.first()
    time_ns = made.rows.time_ns.copy()
    time_ns[[5, 6]] = time_ns[[6, 5]]
    assert refused(verdicts(replace(made, rows=replace(made.rows, time_ns=time_ns)), tmp_path)) == {"time order"}


def test_look_ahead_compares_the_bits_of_several_recordings() -> None:
    seconds = 3600
    parts = [runs.market_rows(seed, seconds=seconds) for seed in (3, 4)]
    ticks = [runs.recorded(seed, seconds) for seed in (3, 4)]
    rows = pooled(parts)
    assert look_ahead(rows, ticks, 0).passed
    assert not look_ahead(rows, ticks[::-1], 0).passed
    features = rows.features.copy()
    features[-1, 4] = np.nextafter(features[-1, 4], 1)
    refused_check = look_ahead(replace(rows, features=features), ticks, 0)
    assert f"row {len(rows) - 1}: {rows.schema.names[4]} is " in refused_check.text


def test_look_ahead_refuses_rows_at_times_without_a_tick() -> None:
    rows: ForecastRows = runs.market_rows(3, seconds=3600)
    moved = replace(rows, time_ns=rows.time_ns + 1)
    check = look_ahead(moved, [runs.recorded(3, 3600)], 0)
    assert not check.passed
    assert "at times without an event" in check.text


def test_each_product_of_each_recording_is_a_series() -> None:
    rows = pooled([runs.market_rows(3, seconds=3600)] * 2)
    rows = replace(rows, products=("a", "b"), product=np.arange(len(rows)) % 2)
    assert series_of(rows)[:2].tolist() == [0, 1]
    assert series_of(rows)[-2:].tolist() == [2, 3]
