"""The order of the test files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", LONGEST)
def test_a_file_that_runs_first_is_there(name: str) -> None:
    assert (ROOT / name).is_file()
