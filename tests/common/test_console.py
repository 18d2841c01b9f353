"""Tables in a file are as wide as they need."""

from __future__ import annotations

import pytest
from rich.table import Table

from common.console import FILE_WIDTH, tables


def test_a_table_in_a_file_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(*[f"column {number}" for number in range(8)])
    table.add_row(*["0.2398 [0.06, 0.38]"] * 7, "the end")
    tables().print(table)
    out = capsys.readouterr().out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= FILE_WIDTH
