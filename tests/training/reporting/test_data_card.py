from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import InputError
from pipeline.datasets import DATA_DIR, btc_quotes_2021
from tests.training.problem.data.files import quotes_table, write_quotes
from training.problem.data import load
from training.reporting import data_card as card

pytestmark = pytest.mark.slow


def test_the_card_is_what_the_recordings_say() -> None:
    if not btc_quotes_2021():
        pytest.skip("the real recordings are not on this machine (VOLCAST_DATA_DIR)")
    written = card.render(*card.facts(lambda step: None))
    assert card.DEFAULT_OUT.read_text() == written, "python -m training.reporting.data_card"


def test_the_untouched_recording_has_raw_facts_only() -> None:
    text = card.DEFAULT_OUT.read_text()
    lines = [line for line in text.splitlines() if "April 2026" in line]
    assert len(lines) == 2
    assert "| 5,970 | ticks |" in lines[0]
    assert "neither features nor labels" in lines[1]


def test_counts_gaps_and_base_rates_of_a_data_set_are_told(tmp_path: Path) -> None:
    table = quotes_table(8000, seed=5)
    table["ts_utc"][3000:] += 86_400_000_000  # a day, in µs
    table["bid"][:3] += 100.0
    made = card.labelled_set("Made up", "Nothing real.", load([write_quotes(tmp_path / "q.parquet", table)]), 1)
    text = card.render([made], [])
    assert "Read 8,000 polled quotes; dropped: crossed quote 3," in text
    assert "1 gaps (silence 1), 24.0 h in all." in text
    assert all(f"| {day.day} | {day.rows:,} |" in text for day in made.days)
    assert sum(hour.rows for hour in made.hours) == len(made.dataset.rows) == sum(day.rows for day in made.days)


def test_without_the_recordings_there_is_no_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(DATA_DIR, str(tmp_path))
    with pytest.raises(InputError, match="the recordings are not here: set VOLCAST_DATA_DIR"):
        card.facts(lambda step: None)
