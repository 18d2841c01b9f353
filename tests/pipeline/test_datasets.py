from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import InputError
from pipeline.datasets import DATA_DIR, coinbase_ticker_2025, coinbase_ticker_2026, data_dir


def test_the_variable_says_where_the_recordings_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "coinbase_ticker"
    folder.mkdir()
    pieces = [folder / f"BTC-USD_2025120{day}T000000Z.ndjson.gz" for day in (1, 2)]
    for path in [*reversed(pieces), folder / "BTC-USD_20260405T223513Z.ndjson.gz", folder / "notes.md"]:
        path.write_bytes(b"")
    monkeypatch.setenv(DATA_DIR, str(tmp_path))
    assert data_dir() == tmp_path
    assert coinbase_ticker_2025() == pieces
    assert [path.name for path in coinbase_ticker_2026()] == ["BTC-USD_20260405T223513Z.ndjson.gz"]


def test_a_variable_that_names_no_directory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_DIR, str(tmp_path / "absent"))
    with pytest.raises(InputError, match="VOLCAST_DATA_DIR: expected a directory"):
        coinbase_ticker_2025()
