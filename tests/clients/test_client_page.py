"""The Python example of clients/README.md runs with each kind of model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import clients
from tests.server.processes import Process

PAGE = (Path(clients.__file__).parent / "README.md").read_text()


def run_example(address: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that the example prints, with a server at this address."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert "127.0.0.1:50051" in code
    exec(compile(code.replace("127.0.0.1:50051", address), "clients/README.md", "exec"), {})
    return capsys.readouterr().out.splitlines()


def test_the_example_runs_with_a_model_of_one_probability(server: Process, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(run_example(server.address, capsys)) == 1


def test_the_example_prints_quantiles_of_a_forecast_model(
    forecasts: Process, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, quantiles = run_example(forecasts.address, capsys)
    assert re.fullmatch(r"[\d.e+-]+ \[([\d.e+-]+(, )?){3}\]", quantiles)
