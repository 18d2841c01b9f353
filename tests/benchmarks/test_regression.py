"""The comparison of two commits reads the lines that benchmarks.calls prints."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import calls, regression
from benchmarks.checkout import Checkout

# As the script of commit d3860c7 prints them.
BASELINE_LINES = """\
one           18.61 us of CPU a call at best,  19.02 in the middle
unary-many     1.17 us of CPU a call at best,   1.30 in the middle
unary-256    131.29 us of CPU a call at best, 137.80 in the middle
"""
HERE, THERE = (Checkout(name, Path(), Path()) for name in ("this tree", "d3860c7"))


def test_the_lines_of_the_baseline_are_read() -> None:
    assert regression.parse(BASELINE_LINES) == {"one": 18.61, "unary-many": 1.17, "unary-256": 131.29}


@pytest.mark.parametrize("case", calls.CASES)
def test_this_tree_prints_lines_of_that_form_for_every_case(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["calls", "--rounds", "1", case])
    calls.main()
    assert regression.parse(capsys.readouterr().out)[case] > 0


def test_other_output_is_quoted_with_the_form_that_was_expected() -> None:
    with pytest.raises(RuntimeError, match=r"expected lines like .*got 'nothing'"):
        regression.parse("nothing")


def rows_of(monkeypatch: pytest.MonkeyPatch, ours: list[float], theirs: list[float]) -> list[str]:
    figures = {HERE.name: iter(ours), THERE.name: iter(theirs)}
    order: list[str] = []

    def run(checkout: Checkout, models: Path, cases: list[str]) -> dict[str, float]:
        order.append(checkout.name)
        extra = {"new": 1.0} if checkout is HERE else {"old": 1.0}
        return {"one": next(figures[checkout.name]), **extra}

    monkeypatch.setattr(regression, "calls", run)
    (row,) = regression.rows(HERE, THERE, len(ours), [], Console(file=io.StringIO()))
    assert row.what.endswith("one")
    return [*order, str(row.reached)]


def test_the_sides_alternate_and_a_case_that_one_side_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    order = rows_of(monkeypatch, [1.0, 1.0], [1.0, 1.0])
    assert order == ["this tree", "d3860c7", "d3860c7", "this tree", "True"]


@pytest.mark.parametrize(("worst", "reached"), [(1.04, "True"), (1.06, "False")])
def test_the_whole_interval_must_keep_to_the_loss(worst: float, reached: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows_of(monkeypatch, [1.0, 1.0, worst], [1.0, 1.0, 1.0])[-1] == reached
