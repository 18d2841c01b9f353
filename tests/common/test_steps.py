"""Steps of a long command: a plain line each where standard error is no terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from common.cli import json_option
from common.steps import steps
from tests.training.commands.said import STEP

STEPS = ("reading 2 recordings", "computing full/1 for 1,234 ticks", "drawing")


def lines_of(capfd: pytest.CaptureFixture[str]) -> list[str]:
    captured = capfd.readouterr()
    assert captured.out == ""
    return [STEP.sub("", line) for line in captured.err.splitlines() if STEP.match(line)]


def test_a_log_gets_a_line_for_each_step_and_standard_output_none(capfd: pytest.CaptureFixture[str]) -> None:
    with steps() as step:
        for text in STEPS:
            step(text)
    assert lines_of(capfd) == list(STEPS)


def test_a_step_that_only_counts_on_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    with steps() as step:
        for ticks in range(65_536, 655_361, 65_536):
            step(f"reading 2 recordings: {ticks:,} ticks")
    assert lines_of(capfd) == ["reading 2 recordings: 65,536 ticks"]


@pytest.mark.parametrize("every", [4, 45, 1000])
def test_models_are_counted_at_each_tenth(every: int, capfd: pytest.CaptureFixture[str]) -> None:
    with steps() as step:
        for finished in range(every + 1):
            step(f"{finished} of {every} models chosen (9 parts × 5 kinds)")
    lines = lines_of(capfd)
    assert len(lines) == min(every, 10) + 1
    assert lines[-1].startswith(f"{every} of {every} ")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_script_that_wants_json_gets_no_steps(as_json: bool) -> None:
    @click.command()
    @json_option
    def command(as_json: bool) -> None:
        with steps() as step:
            step("drawing")

    result = CliRunner().invoke(command, ["--json"] if as_json else [], catch_exceptions=False)
    assert result.stdout == ""
    assert ("drawing" in result.stderr) is not as_json


@pytest.mark.process
def test_a_terminal_gets_no_such_line() -> None:
    program = "from common.steps import steps\nwith steps() as step: step('drawing')"
    theirs, ours = pty.openpty()
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", program], stderr=ours, env=environ, check=True, timeout=60)
    os.close(ours)
    captured = os.read(theirs, 65_536).decode()
    os.close(theirs)
    assert "drawing" in captured
    assert not STEP.search(captured)
