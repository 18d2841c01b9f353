"""What a command told on standard error."""

from __future__ import annotations

import re

import pytest

STEP = re.compile(r"\d\d:\d\d:\d\d ")


def one_line(capfd: pytest.CaptureFixture[str]) -> str:
    """The line beside those of its steps; a traceback or a second line is a failure."""
    lines = [line for line in capfd.readouterr().err.splitlines() if not STEP.match(line)]
    assert len(lines) == 1
    return lines[0]
