"""Durations and speeds as people type them."""

from __future__ import annotations

import math

import click
import pytest

from cli.main import COMMANDS, volcast
from common.cli import Duration, FiniteRange, Speed, examples


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30.0), ("500ms", 0.5), ("2m", 120.0), ("2min", 120.0), ("1h", 3600.0), ("1.5s", 1.5), ("7", 7.0)],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


def test_a_bare_number_counts_in_the_unit_given() -> None:
    assert Duration("min").convert("5", None, None) == 300.0
    assert Duration("min").convert("5s", None, None) == 5.0


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "-1s", "1d", "soon", "1s2", "nan", "inf", "1e3s", ".5s", "s", "9" * 400]
)
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration such as 30s, 500ms, 2m or 1h"):
        Duration().convert(text, None, None)


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("1", 1.0), ("0.25", 0.25), ("1e-3", 0.001)])
def test_a_number_in_the_range_is_taken(text: str, value: float) -> None:
    assert FiniteRange(0, 1).convert(text, None, None) == value


@pytest.mark.parametrize("text", ["", "nan", "NaN", "-nan", "inf", "-inf", "-0.1", "1.1", "half", "50%"])
def test_a_number_outside_the_range_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected 0 to 1, got "):
        FiniteRange(0, 1).convert(text, None, None)


@pytest.mark.parametrize(
    ("limits", "text", "expected"),
    [
        (FiniteRange(0), "nan", "a number of at least 0"),
        (FiniteRange(0), "inf", "a number of at least 0"),
        (FiniteRange(0, min_open=True), "0", "a number above 0"),
        (FiniteRange(0, 1, max_open=True), "1", "a number of at least 0 and below 1"),
        (FiniteRange(0, 10_000, min_open=True), "nan", "a number above 0 and of at most 10000"),
    ],
)
def test_the_range_is_described(limits: FiniteRange, text: str, expected: str) -> None:
    with pytest.raises(click.BadParameter, match=f"expected {expected}, got {text}"):
        limits.convert(text, None, None)


def test_no_command_takes_a_number_that_is_not_finite() -> None:
    """click.FloatRange and float take "nan"."""
    for name in COMMANDS:
        command = volcast.get_command(click.Context(volcast), name)
        assert command is not None
        for option in options_of(command):
            if isinstance(option.type, click.FloatRange | click.types.FloatParamType):
                assert isinstance(option.type, FiniteRange), (name, option.name)


def options_of(command: click.Command) -> list[click.Parameter]:
    children = command.commands.values() if isinstance(command, click.Group) else ()
    return [*command.params, *(option for child in children for option in options_of(child))]


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
