"""`volcast models`: every refusal told with its reason and exit code 3, one command forward and one back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.main import run_command
from common.bundle import ManifestForecast, Survival
from common.labels import Labels
from common.model_store import ModelStore
from tests.training.runs import Made, blind, first, later, leaky, make, replace_manifest
from training.shipping.trained_form import TRAINED_FILE, trained_files

Volcast = Callable[..., int]


@pytest.fixture(scope="module")
def made() -> Made:
    return first()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and limits that no busy machine breaks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VOLCAST_GATE__MAX_LATENCY_US", "1000")
    monkeypatch.setenv("VOLCAST_GATE__CHAMPION_MARGIN", "0.2")
    monkeypatch.setenv("VOLCAST_TRACKING__URI", "http://127.0.0.1:1")  # nobody is there
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "models").mkdir()


def models(*arguments: object) -> int:
    return run_command(["models", *map(str, arguments)])


def store() -> ModelStore:
    return ModelStore(Path("models"), "volatility")


def kept(made: Made, number: int = 0) -> str:
    return made.write(Path("data/runs"), 1_765_000_000.0 + number).name


def json_output(capfd: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capfd.readouterr().out)


def test_a_leaky_model_is_refused_with_its_reason(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    assert models("promote", "volatility", "--run", kept(leaky()), "--no-track") == 3
    output = capfd.readouterr().out
    assert "REFUSED foresight      features are more correlated" in output
    assert output.count("REFUSED") == 4
    assert store().labels() is None


def test_a_bad_export_is_refused_with_its_reason(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    bad = make()
    bad.trained = later().fitted
    assert models("promote", "volatility", "--run", kept(bad), "--no-track") == 3
    assert "ONNX and trained form differ by" in capfd.readouterr().out


def test_a_bundle_that_no_server_loads_is_refused_with_its_reason(
    made: Made, capfd: pytest.CaptureFixture[str]
) -> None:
    other = replace_manifest(made.manifest, opset=17)
    run = replace(made, manifest=other).write(Path("data/runs")).name
    assert models("promote", "volatility", "--run", run, "--no-track") == 3
    text = capfd.readouterr().out
    assert "REFUSED load" in text
    assert "opset: the manifest has 17, model.onnx uses 18" in text
    assert not Path("models/volatility").exists()


def test_a_worse_model_is_refused_with_its_reason(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    assert models("promote", "volatility", "--run", kept(made), "--no-track") == 0
    assert models("promote", "volatility", "--run", kept(blind(), 1), "--no-track") == 3
    assert "worse: CRPS +0." in capfd.readouterr().out
    assert store().labels() == Labels("1")


def test_forward_and_back(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    second = later()
    assert models("promote", "volatility", "--run", kept(made), "--no-track") == 0
    run = kept(second, 1)
    assert models("promote", "volatility", "--run", run, "--to", "candidate", "--no-track") == 0
    assert store().labels() == Labels("1", None, ("2",))
    capfd.readouterr()
    assert models("promote", "volatility", 2, "--no-track", "--json") == 0
    output = json_output(capfd)
    assert (output["version"], output["role"], output["previous"]) == ("2", "champion", "1")
    assert output["labels"] == {"stable": "2"}
    assert all(check["passed"] for check in output["checks"])
    assert models("rollback", "volatility", "--no-track") == 0
    printed = capfd.readouterr()
    assert printed.out == "volatility: version 1 is now the champion (before: 2)\n"
    assert "`volcast models promote volatility 1 --dry-run` runs the gate" in printed.err
    assert models("rollback", "volatility", "--no-track") == 2


def test_a_dry_run_judges_and_changes_nothing(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    assert models("promote", "volatility", "--run", kept(made), "--dry-run", "--json") == 0
    assert json_output(capfd)["passed"]
    assert list(Path("models").iterdir()) == []


def test_a_tracking_server_that_is_away_holds_a_promotion_up_and_a_rollback_not(
    made: Made, capfd: pytest.CaptureFixture[str]
) -> None:
    run = kept(made)
    assert models("promote", "volatility", "--run", run) == 1
    output = capfd.readouterr()
    assert output.err.startswith("volcast: tracking server http://127.0.0.1:1 is away: Connection refused; run ")
    assert output.err.count("\n") == 1
    assert store().labels() is None
    second = later()
    for name in (run, kept(second, 1)):
        assert models("promote", "volatility", "--run", name, "--no-track") == 0
    capfd.readouterr()
    assert models("rollback", "volatility") == 0
    output = capfd.readouterr()
    assert "version 1 is now the champion" in output.out
    assert [line for line in output.err.splitlines() if "is away" in line] == output.err.splitlines()[1:]
    assert models("sync") == 1


def test_the_list_shows_labels_runs_and_what_is_damaged(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    run = kept(made)
    assert models("promote", "volatility", "--run", run, "--no-track") == 0
    Path("models/volatility/2").mkdir()
    Path("models/volatility/2/manifest.json").touch()
    damaged = Path("data/runs") / kept(made, 1)
    (damaged / "run.json").write_text("{")
    capfd.readouterr()
    assert models("list", "--json") == 0
    output = json_output(capfd)
    assert [(entry["version"], entry["label"]) for entry in output["models"]] == [("1", "stable"), ("2", "")]
    assert "cannot be read" in output["models"][1]["error"]
    assert [entry["run"] for entry in output["runs"]] == [run]
    assert output["runs"][0]["mlflow"] == "waits"
    assert len(output["unreadable"]) == 1
    assert models("list") == 0
    assert "stable" in capfd.readouterr().out


def test_the_list_shows_thresholds_and_says_where_scores_do_not_compare(
    made: Made, capfd: pytest.CaptureFixture[str]
) -> None:
    def listed(threshold: float) -> str:
        label = msgspec.structs.replace(made.manifest.label, threshold=threshold)
        store().put(msgspec.structs.replace(made.manifest, label=label), made.model, {})
        assert models("list") == 0
        return capfd.readouterr().out

    assert "do not compare" not in listed(2.6444e-4)
    output = listed(2.811e-4)
    assert "2.64 bps" in output
    assert "2.81 bps" in output
    assert output.count("scores of versions with another spike size or other rows do not compare") == 1


def test_the_list_shows_the_default_spike_size_of_a_forecast(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    forecast = ManifestForecast(60.0, 5.0, 0.05, 3.25, Survival((1.0,), (0.5,)))
    store().put(msgspec.structs.replace(made.manifest, forecast=forecast), made.model, {})
    assert models("list") == 0
    assert "3.25 bps" in capfd.readouterr().out


def test_versions_scored_on_other_rows_do_not_compare_either(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    later = msgspec.structs.replace(made.manifest.evaluation, end_ns=made.manifest.evaluation.end_ns + 1)
    for evaluation in (made.manifest.evaluation, later):
        store().put(msgspec.structs.replace(made.manifest, evaluation=evaluation), made.model, {})
    assert models("list") == 0
    assert "do not compare" in capfd.readouterr().out


def test_verify_tells_a_sound_bundle_from_a_damaged_one(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    assert models("promote", "volatility", "--run", kept(made), "--no-track") == 0
    capfd.readouterr()
    assert models("verify", "volatility", 1, "--json") == 0
    output = json_output(capfd)
    assert [check["name"] for check in output["checks"]] == ["load", "parity", "latency"]
    model = Path("models/volatility/1/model.onnx")
    data = bytearray(model.read_bytes())
    data[-20] ^= 1
    model.write_bytes(data)
    assert models("verify", "--path", model.parent) == 1
    assert "model.onnx is damaged" in capfd.readouterr().out


def test_verify_refuses_a_trained_form_that_says_something_else(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    assert models("promote", "volatility", "--run", kept(made), "--no-track") == 0
    other = trained_files(later().fitted)[TRAINED_FILE]
    (Path("models/volatility/1") / TRAINED_FILE).write_bytes(other)
    assert models("verify", "volatility", 1) == 1
    assert "REFUSED parity" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("promote", "volatility"), "name a VERSION of the models folder, or a run with --run"),
        (("promote", "volatility", "3"), "has no version '3'"),
        (("promote", "volatility", "--run", "x", "--share", "0.5"), "--share needs --to candidate"),
        (("promote", "../elsewhere", "1"), "expected letters, digits, - and _"),
        (("verify", "volatility"), "name a bundle: NAME VERSION, or --path FOLDER"),
        (("rollback", "volatility"), "model volatility has no version in models; models there: none"),
    ],
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert models(*arguments) == 2
    line = capfd.readouterr().err
    assert expected in line
    assert line.count("\n") == 1


def test_a_rollback_that_cannot_be_says_what_is_there_and_what_else_helps(
    made: Made, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(name: str) -> str:
        capfd.readouterr()
        assert models("rollback", name, "--no-track") == 2
        line = capfd.readouterr().err
        assert line.count("\n") == 1
        return line

    hint = "`volcast models promote volatility VERSION` makes that version the champion"
    store().put(made.manifest, made.model, {})
    assert f"nothing was ever promoted; {hint}" in refused("volatility")
    assert models("promote", "volatility", "--run", kept(made), "--no-track") == 0
    assert f"no champion is known before version 1; {hint}" in refused("volatility")
    second = later()
    assert models("promote", "volatility", "--run", kept(second, 1), "--no-track") == 0
    Path("models/volatility/1").rename("elsewhere")
    assert f"model volatility has no version '1' in models/volatility; there: 2; {hint}" in refused("volatility")
    assert "model volatile has no version in models; models there: volatility" in refused("volatile")
    assert not Path("models/volatile").exists()


def test_help_has_examples(capfd: pytest.CaptureFixture[str]) -> None:
    assert models("--help") == 0
    assert "volcast models rollback volatility" in capfd.readouterr().out


def test_listing_waits_for_no_heavy_library() -> None:
    asked = "from cli.main import run_command; assert run_command(['models', 'list']) == 0"
    heavy = "import sys; sys.exit(', '.join({'mlflow', 'sklearn', 'xgboost', 'pandas'} & set(sys.modules)) or 0)"
    command = [sys.executable, "-c", f"{asked}; {heavy}"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)
    assert (done.returncode, done.stderr) == (0, "")
