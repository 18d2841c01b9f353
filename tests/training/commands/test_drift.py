"""`volcast drift` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.main import run_command
from tests.training.synthetic import market, write_recording


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same market, and one of ten times its moves."""
    folder = tmp_path_factory.mktemp("drift")
    time_ns, mid = market(5400, seed=3)
    wild = 90_000 * (mid / 90_000) ** 10
    return write_recording(folder / "then.ndjson", time_ns, mid), write_recording(folder / "now.ndjson", time_ns, wild)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidently is tested once, beside its module."""
    monkeypatch.setattr("training.drift.evidently_report.write_report", lambda *_: [])


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("which", [0, 1])
def test_the_exit_code_tells_a_market_ten_times_as_wild(
    which: int, recordings: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    then, now = str(recordings[0]), str(recordings[which])
    assert run_command(["drift", "--reference", then, "--current", now, "--json"]) == (3 if which else 0)
    assert {"volatility"} <= set(json.loads(capsys.readouterr().out)["drifted"]) or not which


@pytest.mark.usefixtures("no_report")
def test_training_and_final_part_are_compared_in_a_table(
    recordings: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["drift", "--reference", str(recordings[0]), "--compare-train-test"]) in {0, 3}
    said = capsys.readouterr().out
    assert "training part: " in said
    assert "final part: " in said
    assert "volatility_300s" in said


def test_one_comparison_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--live", "--compare-train-test"], ["--current", "a", "--live"]):
        assert run_command(["drift", *options]) == 2
        assert "choose one of" in capsys.readouterr().err


def test_what_is_not_there_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "none.ndjson")
    assert run_command(["drift", "--reference", missing, "--compare-train-test"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
