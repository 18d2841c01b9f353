"""Measures take turns, and none always follows the same one."""

from __future__ import annotations

from itertools import count

from tests.benchmarks.runs import silent


def test_each_measure_runs_once_a_round_and_every_other_round_backwards() -> None:
    order: list[str] = []
    number = count()

    def measure(name: str) -> float:
        order.append(name)
        return next(number)

    figures = silent(quick=False).in_turns("", {name: lambda name=name: measure(name) for name in "abc"})  # type: ignore[misc]
    assert "".join(order) == "abccbaabccbaabc"
    assert figures == {"a": [0, 5, 6, 11, 12], "b": [1, 4, 7, 10, 13], "c": [2, 3, 8, 9, 14]}


def test_a_quick_run_has_fewer_rounds_and_calls() -> None:
    quick, full = silent(), silent(quick=False)
    assert (quick.rounds, quick.scaled(100), quick.seconds(60, 10)) == (2, 20, 10)
    assert (full.rounds, full.scaled(100), full.seconds(60, 10)) == (5, 100, 60)
