"""Durations and speeds as people type them."""

from __future__ import annotations

import math

import click
import pytest

from common.cli import Duration, Speed, examples


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30.0), ("500ms", 0.5), ("2m", 120.0), ("2min", 120.0), ("1h", 3600.0), ("1.5s", 1.5), ("7", 7.0)],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


def test_a_bare_number_counts_in_the_unit_given() -> None:
    assert Duration("min").convert("5", None, None) == 300.0
    assert Duration("min").convert("5s", None, None) == 5.0


@pytest.mark.parametrize("text", ["", "0", "0s", "-1s", "1d", "soon", "1s2", "nan", "inf", "1e3s", ".5s", "s"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration such as 30s, 500ms, 2m or 1h"):
        Duration().convert(text, None, None)


@pytest.mark.parametrize(("text", "speed"), [("1", 1.0), ("0.5", 0.5), ("1000", 1000.0), ("max", math.inf)])
def test_a_speed_is_a_factor_or_as_fast_as_it_goes(text: str, speed: float) -> None:
    assert Speed().convert(text, None, None) == speed


@pytest.mark.parametrize("text", ["", "0", "-1", "fast", "nan", "inf", "-inf", "MAX"])
def test_what_is_no_speed_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a speed: a number above 0, or max"):
        Speed().convert(text, None, None)


def test_examples_keep_their_lines_in_help() -> None:
    @click.command(epilog=examples("volcast one", "volcast two --option"))
    def command() -> None:
        pass

    shown = command.get_help(click.Context(command))
    assert shown.rstrip().splitlines()[-3:] == ["  Examples:", "    volcast one", "    volcast two --option"]
