"""The table of `volcast run`."""

from __future__ import annotations

from io import StringIO
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from cli.run.processes import ProcessGroup
from cli.run.summary import Summary
from cli.run.view import View


def shown(stats: dict[str, Any], name: str = "exchange") -> str:
    process = SimpleNamespace(name=name, state="running", ready={"port": 1}, stats=stats)
    view = View(cast("ProcessGroup", SimpleNamespace(all=[process])), Console())
    return view._line(3.0)


def test_the_table_shows_that_the_market_is_simulated_and_its_date() -> None:
    assert shown({"sent": 5, "market": "simulated market, 2026-01-01 UTC"}).endswith("simulated market, 2026-01-01 UTC")


@pytest.mark.parametrize("stats", [{}, {"sent": 5}])
def test_before_the_first_message_there_is_no_date(stats: dict[str, Any]) -> None:
    assert "UTC" not in shown(stats)


def test_products_with_less_than_an_hour_are_named_until_the_hour_is_known() -> None:
    known_s = {"ETH-USD": 1500.0, "BTC-USD": 595.0}
    line = shown({"features": 5, "trailing_known_s": known_s}, "worker")
    assert line.endswith("features 5, less than an hour known: BTC-USD 10 min, ETH-USD 25 min")
    assert "hour" not in shown({"features": 5, "trailing_known_s": {}}, "worker")


def test_the_summary_states_how_much_of_the_trailing_hour_is_known_at_the_end() -> None:
    def summary(known_s: dict[str, float]) -> str:
        console = Console(width=100, record=True, file=StringIO())
        Summary.of({}, {"trailing_known_s": known_s}, 1.0, None).show(console)
        return console.export_text()

    expected = "  trailing hour            10 min   known at the end: BTC-USD 10 min, ETH-USD 25 min"
    assert expected in summary({"ETH-USD": 1500.0, "BTC-USD": 595.0}).splitlines()
    assert "trailing hour" not in summary({})
