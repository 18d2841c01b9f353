"""Commands that read and write below the working folder."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test works in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
