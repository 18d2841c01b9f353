"""The table of targets has a line a figure, says yes or no, and keeps what is missed or not measured."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import count
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks import real_clients, scorecard, stored
from benchmarks.real_clients import CPP_CASES, Case, rows_of
from benchmarks.sides import CPP, Side
from benchmarks.targets import Row, at_least, at_most, paired_row
from tests.benchmarks.runs import silent

SIDES = (Side("this tree", "ours", 1), Side("d3860c7", "before", 2), Side(CPP, "echo", 3))
RATES = {"ours": 30.0, "before": 25.0, "echo": 20.0}


def printed(rows: list[Row]) -> str:
    console = Console(file=io.StringIO(), width=220)
    console.print(scorecard.table(rows, "d3860c7"))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def client(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, object]]:
    """A client whose rates are known; gives the options of its runs."""
    given: list[Mapping[str, object]] = []

    def run(address: str, message: object, options: Mapping[str, object], **more: object) -> dict[str, float]:
        given.append({"address": address, **options})
        return {"calls_per_s": RATES[address], "server_cpu_us": 1 / RATES[address], "p99_us": 7.0}

    monkeypatch.setattr(real_clients, "unary_client", run)
    return given


def test_a_real_client_runs_in_turns_on_every_side_and_counts_that_sides_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    given = client(monkeypatch)
    case = Case("1 row", {"in-flight": 8}, {"calls_per_s": at_least(1.25)})
    rows = list(rows_of(silent(), (case,), SIDES))
    assert [call["address"] for call in given] == ["ours", "before", "echo", "echo", "before", "ours"]
    assert {(call["address"], call["server-pid"]) for call in given} == {("ours", 1), ("before", 2), ("echo", 3)}
    assert [(row.beside, row.unit, row.reached) for row in rows[:2]] == [
        (CPP, "calls/s", True),
        ("d3860c7", "calls/s", None),
    ]
    assert [row.ratio for row in rows[:2]] == pytest.approx([1.5, 1.2])
    assert {row.unit for row in rows[2:]} == {"us of CPU a call"}


def test_the_targets_are_those_of_the_issue() -> None:
    limits = [str(target) for case in CPP_CASES for target in case.targets.values()]
    assert limits == [
        "≤ 0.6 ×", "≥ 1 ×", "≥ 1.25 ×", "≥ 1.3 ×", "≥ 1.1 ×", "≤ 0.5 ×", "≤ 0.6 ×", "≥ 1.15 ×", "≤ 0.4 ×", "≥ 1.05 ×",
    ]  # fmt: skip


def test_a_figure_has_one_line_with_all_its_sides() -> None:
    ours, before, echo = [30.0, 30.0], [25.0, 25.0], [20.0, 20.0]
    rows = [
        paired_row("calls", "calls/s", ours, CPP, echo, target=at_least(1.6)),
        paired_row("calls", "calls/s", ours, "d3860c7", before, target=at_least(0.95)),
    ]
    text = printed(rows)
    assert text.count("calls/s") == 1
    for part in ("1.50 (1.50 to 1.50)", "1.25", "1.20 (1.20 to 1.20)", "≥ 1.6 × C++ echo", "no, 1.50", "yes, 1.20"):
        assert part in text


def test_rows_of_another_command_are_shown_once_they_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorecard, "stored", lambda name: stored.stored(name, tmp_path))
    missing = list(scorecard.stored_rows("attacks"))
    assert [row.reached for row in missing] == [False]
    text = printed(missing)
    assert "not measured: python -m benchmarks.abuse --save" in text
    assert "nan" not in text
    row = Row(what="health checks, slow reader", unit="ms", ours=4.0, target=at_most(50, "ms"))
    stored.store("attacks", "python -m benchmarks.abuse --save", [row], tmp_path)
    assert list(scorecard.stored_rows("attacks")) == [row]


def test_every_round_compares_next_to_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    number = count(1)
    monkeypatch.setattr(real_clients, "unary_client", lambda *given, **more: {"calls_per_s": float(next(number))})
    case = Case("1 row", {}, {"calls_per_s": None}, "unary_go")
    row = next(iter(rows_of(silent(), (case,), SIDES)))
    assert (row.our_rounds, row.their_rounds) == ((1, 6), (3, 4))


@pytest.mark.parametrize("option", [["--quick"], ["--only", "streams"]])
def test_a_part_of_a_run_is_not_stored_as_a_whole(option: list[str]) -> None:
    done = CliRunner().invoke(scorecard.main, ["--save", *option])
    assert done.exit_code == 2
    assert "--save stores whole runs" in done.output
