"""Live = offline: a short market through the whole running system, beside `volcast evaluate` of its recording."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.live_offline import TOLERANCE, Difference, compare
from tests.processes import ROOT
from tests.training.synthetic import market, write_recording
from training.monitoring.scoreboard import METRICS


@pytest.mark.timeout(600)
def test_every_prediction_every_truth_and_every_metric_are_those_of_the_recording(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "BTC-USD_made_up.ndjson", *market(600, seed=3))
    models = ROOT / "models" / "volatility"
    bundle = models / json.loads((models / "labels.json").read_text())["stable"]  # which answers whoever names none
    differences, figures = compare(str(recording), bundle, tmp_path / "live", Console(quiet=True))
    assert [one for one in differences if not one.within(TOLERANCE)] == []
    # Of 600 ticks the first 60 s are not warm, and the last 60 s are not fully observed.
    assert (figures["ticks"], figures["predictions"], figures["joined"]) == (600, 540, 480)
    assert 0 < figures["spikes"] < figures["evaluated"] == 480
    compared = {one.what: one.compared for one in differences}
    assert compared.pop("predictions, every tick") == 540
    assert compared.pop("realized volatility that followed") == 480
    # Without an alert there is no precision.
    assert set(compared.values()) <= {len(METRICS) - 1, len(METRICS)}
    assert len(compared) == 2


@pytest.mark.parametrize(
    ("difference", "held"),
    [
        (Difference("all", 3, 1e-7, ""), True),
        (Difference("too far", 3, 2e-6, ""), False),
        (Difference("one more", 3, 0.0, "", one_sided=1), False),
        (Difference("nothing", 0, float("nan"), ""), False),
        (Difference("no number", 3, float("nan"), ""), False),
    ],
)
def test_only_what_was_compared_and_lies_near_is_held(difference: Difference, held: bool) -> None:
    assert difference.within(TOLERANCE) == held
