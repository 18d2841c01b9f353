"""Live = offline: a short market through the whole running system, next to the same computation on its recording."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.live_offline import LEVELS, TOLERANCE, Difference, compare
from tests.processes import ROOT
from tests.training.monitoring.bundles import write_forecast_bundle
from tests.training.synthetic import market, write_recording

PROBABILITY_SCORES = 7
DISTRIBUTION_SCORES = 4
OUTPUTS = {"spike_bps", "base_rate", "median_bps", *(f"quantile {level:g}" for level in LEVELS)}


# Nearly all of a case is the start of seven processes, so core/1 and forecasts share no third case.
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("schema", "warm_s"), [("full/2", 300), ("old style, core/1", 60)])
def test_every_output_outcome_and_score_is_that_of_the_recording(schema: str, warm_s: int, tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "BTC-USD_made_up.ndjson", *market(600, seed=3))
    forecast = not schema.startswith("old style")
    bundle = write_forecast_bundle(tmp_path / "bundles", schema) if forecast else ROOT / "models" / "volatility" / "1"
    differences, counts = compare(str(recording), bundle, tmp_path / "live", Console(quiet=True))
    assert [each for each in differences if not each.within(TOLERANCE)] == []
    # A row every 5 s. The last outcome begins at 535 s and ends at 595 s.
    rows = (535 - warm_s) // 5 + 1
    assert (counts["ticks"], counts["predictions"], counts["joined"]) == (600, 600 - warm_s, rows)
    assert 0 < counts["spikes"] < counts["rows"] == rows
    compared = {each.what: each.compared for each in differences}
    assert compared.pop("probability") == 600 - warm_s
    assert compared.pop("outcome") == rows
    assert compared.pop("scores") == PROBABILITY_SCORES + DISTRIBUTION_SCORES * forecast
    assert compared == (dict.fromkeys(OUTPUTS, 600 - warm_s) if forecast else {})


@pytest.mark.parametrize(
    ("difference", "within"),
    [
        (Difference("all", 3, 1e-10, ""), True),
        (Difference("too far", 3, 2e-9, ""), False),
        (Difference("another row", 3, 0.0, "", one_sided=1), False),
        (Difference("nothing", 0, float("nan"), ""), False),
        (Difference("no number", 3, float("nan"), ""), False),
    ],
)
def test_a_difference_is_within_the_tolerance_if_all_values_were_compared_and_are_close(
    difference: Difference, within: bool
) -> None:
    assert difference.within(TOLERANCE) == within
