"""A row says whether it is reached, and one that is not stays in the table."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from benchmarks.targets import Row, at_least, at_most, figure, medians, paired_row, table


@pytest.mark.parametrize(
    ("target", "ours", "theirs", "reached"),
    [
        (at_least(1.1), 110, 100, True),
        (at_least(1.1), 109, 100, False),
        (at_most(1.0), 100, 100, True),
        (at_most(1.0), 101, 100, False),
        (at_least(6e6, "rows/s"), 6e6, 9e6, True),
        (at_least(6e6, "rows/s"), 5.9e6, 1, False),
        (at_most(0, "failed calls"), 0, None, True),
        (at_most(0, "failed calls"), 1, None, False),
        (at_least(1.1), 100, None, False),
        (None, 1, 100, None),
    ],
)
def test_a_bound_is_on_the_ratio_or_where_it_has_a_unit_on_our_figure(
    target: object, ours: float, theirs: float | None, reached: bool | None
) -> None:
    assert Row(what="", unit="", ours=ours, theirs=theirs, target=target).reached is reached  # type: ignore[arg-type]


def test_a_row_holds_the_medians_and_the_rounds_they_are_of() -> None:
    row = medians("calls", "calls/s", [1, 9, 2], "echo", [4, 8, 1], target=at_least(1))
    assert (row.ours, row.theirs, row.ratio) == (2, 4, 0.5)
    assert (row.our_rounds, row.their_rounds) == ((1, 9, 2), (4, 8, 1))


def test_a_row_survives_being_kept() -> None:
    row = medians("calls", "calls/s", [1], "echo", [4], target=at_least(1), note="how")
    assert msgspec.convert(msgspec.to_builtins(row), Row) == row


def test_the_table_shows_targets_that_are_missed() -> None:
    console = Console(file=io.StringIO(), width=120)
    missed = medians("calls", "calls/s", [50], "echo", [100], target=at_least(1.1), note="at night")
    console.print(table([missed, medians("shown", "us", [7])]))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("calls", "at night", "50 calls/s", "echo: 100", "0.50", "≥ 1.1 ×", "no", "shown", "7 us"):
        assert part in printed


@pytest.mark.parametrize(("value", "text"), [(61234.5, "61,234"), (0.8046, "0.805"), (12.34, "12.3"), (0, "0")])
def test_a_figure_has_the_digits_that_say_something(value: float, text: str) -> None:
    assert figure(value) == text


def test_a_large_bound_is_written_out() -> None:
    assert str(at_least(6e6, "rows/s")) == "≥ 6,000,000 rows/s"


@pytest.mark.parametrize(("slowest", "reached"), [(1.05, True), (1.06, False)])
def test_a_bound_on_an_interval_is_on_all_of_it(slowest: float, reached: bool) -> None:
    row = paired_row("cpu", "us", [1, 1, slowest], "before", [1, 1, 1], target=at_most(1.05, interval=True))
    assert (row.ratio, row.reached) == (1, reached)


def test_a_paired_row_prints_its_interval() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(table([paired_row("calls", "calls/s", [3, 4, 5], "echo", [2, 2, 2], target=at_least(2.1))]))
    assert "2.00 (1.50 to 2.50)" in console.file.getvalue()  # type: ignore[attr-defined]
