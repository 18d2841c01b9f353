"""The table of `volcast run`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from cli.run.processes import ProcessGroup
from cli.run.view import View


def shown(stats: dict[str, Any]) -> str:
    process = SimpleNamespace(name="exchange", state="running", ready={"port": 1}, stats=stats)
    view = View(cast("ProcessGroup", SimpleNamespace(all=[process])), Console())
    return view._line(3.0)


def test_the_table_shows_that_the_market_is_simulated_and_its_date() -> None:
    assert shown({"sent": 5, "market": "simulated market, 2026-01-01 UTC"}).endswith("simulated market, 2026-01-01 UTC")


@pytest.mark.parametrize("stats", [{}, {"sent": 5}])
def test_before_the_first_message_there_is_no_date(stats: dict[str, Any]) -> None:
    assert "UTC" not in shown(stats)
