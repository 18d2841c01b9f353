"""The short form of `python -m benchmarks.recorded`: a simulated market through all faults together."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.faults.judge import Verdict
from benchmarks.recorded import RATES, TOGETHER, Market, Outcome, cases, stage, store
from pipeline.exchange.faults import Fault

TICKS = 4_000
WAITS = {Fault.SLOW, Fault.SILENCE}  # half a second and 20 s each
RARE = {Fault.CUT, Fault.RECONNECT_STORM, Fault.REFUSED_SUBSCRIPTION}  # ingest waits before it connects again


@pytest.mark.kafka
@pytest.mark.process
def test_through_all_faults_nothing_is_lost_repeated_altered_or_unnamed(tmp_path: Path) -> None:
    # More faults would leave no row warm: most of them make a gap, and rows are not warm for a minute after a gap.
    rates = {fault: 2e-4 if fault in RARE else 5e-4 for fault in Fault if fault not in WAITS}
    with stage(Market.simulated(TICKS), tmp_path) as prepared:
        outcome = prepared.run(TOGETHER, rates, 2)
    assert outcome.faults == 0, outcome
    assert len(outcome.injected) >= 4
    assert outcome.ticks > 0.9 * TICKS
    assert outcome.verdict.predictions > 0
    assert outcome.expected_gaps > 0


def test_a_case_is_no_fault_a_single_one_or_all() -> None:
    every = cases()
    assert len(every) == len(Fault) + 2
    assert every["none"] == {}
    assert every["drop"] == {Fault.DROP: RATES[Fault.DROP]}
    assert every["all"] == RATES
    assert list(cases(["cut"])) == ["cut"]


def test_each_difference_of_the_verdict_counts() -> None:
    assert Outcome("drop", verdict=Verdict(lost_rows=2, altered_predictions=1)).faults == 3


@pytest.mark.parametrize("field", ["unnamed", "unexplained", "problems"])
def test_every_gap_that_is_not_named_counts(field: str) -> None:
    assert Outcome("drop", **{field: ["a", "b"]}).faults == 2  # type: ignore[arg-type]


def test_a_stored_case_replaces_its_former_result_and_keeps_the_others(tmp_path: Path) -> None:
    file, market = tmp_path / "recorded.json", Market.simulated(10)
    for outcome in (Outcome("cut", ticks=1), Outcome("drop", ticks=2), Outcome("cut", ticks=3)):
        store(market, "command", outcome, file)
    stored = msgspec.json.decode(file.read_bytes())
    assert [(each["case"], each["ticks"]) for each in stored["cases"]] == [("drop", 2), ("cut", 3)]
    store(Market.simulated(11), "command", Outcome("cut"), file)
    assert len(msgspec.json.decode(file.read_bytes())["cases"]) == 1
