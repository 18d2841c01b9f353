from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from pipeline.archive import ReadOptions
from pipeline.datasets import DATA_DIR
from tests.training.problem.data.files import quotes_table, write_quotes
from tests.training.synthetic import market, write_recording
from training.problem.data import load
from training.problem.recordings import known_recordings
from training.reporting import data_card as card

pytestmark = pytest.mark.slow


def test_the_card_has_the_figures_of_the_recordings() -> None:
    if len(known_recordings()) < len(card.ABOUT):
        pytest.skip("the real recordings are not on this machine (VOLCAST_DATA_DIR)")
    written = card.render(*card.facts(lambda step: None))
    assert card.DEFAULT_OUT.read_text() == written, "python -m training.reporting.data_card"


def test_of_the_final_test_only_counts_and_times_are_published() -> None:
    lines = [line for line in card.DEFAULT_OUT.read_text().splitlines() if "April 2026" in line]
    assert [line.startswith("| ticks of April 2026 | 5,970 |") for line in lines] == [True, False]


def test_a_recording_has_counts_gaps_sizes_and_days(tmp_path: Path) -> None:
    table = quotes_table(8000, seed=5)
    table["ts_utc"][3000:] += np.timedelta64(1, "D")
    table["bid"][:3] += 100.0
    dataset = load([write_quotes(tmp_path / "q.parquet", table)], options=ReadOptions(product="BTC-USD"))
    section = card.section_of("made up", "Nothing real.", dataset)
    text = card.render([section], [])
    assert "## Made up\n\nNothing real.\n\n- Read 7,996 ticks; dropped: dead crossed quote 3, " in text
    assert ", dead time jumped ahead 1, not warm 120, outcome unknown 24.\n" in text
    assert "- Gaps: 1 (clock 1). The longest began at " in text
    assert "| spike size | q50 | q75 | q90 | q95 | q99 |\n| --- | ---: | ---: | ---: | ---: | ---: |\n| bps | " in text
    for day in section.days:
        assert f"| {' | '.join(day)} |\n" in text
    assert sum(int(day[1].replace(",", "")) for day in section.days) == section.found.rows


def test_pieces_of_a_recording_end_at_gaps(tmp_path: Path) -> None:
    time_ns, mid = market(300, seed=1)
    write_recording(tmp_path / "a.ndjson", time_ns[:100], mid[:100])
    write_recording(tmp_path / "b.ndjson", time_ns[200:], mid[200:])
    raw = card.raw_recording("two", [tmp_path / "a.ndjson", tmp_path / "b.ndjson"])
    assert (raw.ticks, raw.pieces, raw.recorded_s, raw.products) == (200, 2, 198.0, ("BTC-USD",))
    assert (raw.first_ns, raw.last_ns) == (time_ns[0], time_ns[-1])


def test_without_the_recordings_there_is_no_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(DATA_DIR, str(tmp_path))
    with pytest.raises(InputError, match="the recordings are not here: set VOLCAST_DATA_DIR"):
        card.facts(lambda step: None)
