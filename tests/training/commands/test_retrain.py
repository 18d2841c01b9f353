"""`volcast retrain`: each call does the next step and no other, and a dry run changes nothing that is served."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest

from cli.main import run_command
from common.bundle import read_bundle
from common.errors import InputError
from common.labels import Labels
from common.model_store import History, ModelStore
from tests.training import runs as samples
from tests.training.runs import Made
from tests.training.synthetic import market, write_flat
from training.forecasting.onnx_forecast import OnnxForecast
from training.shipping import training_run
from training.shipping.retraining import (
    BusyError,
    ShadowReport,
    State,
    Step,
    next_step,
    only_one,
    shadow_objections,
    shadow_report,
)
from training.shipping.tracking.record import read_run, runs

HOUR_S = 3600.0


@pytest.fixture(scope="module")
def first() -> Made:
    return samples.first()


@pytest.fixture(scope="module")
def second() -> Made:
    return samples.later()


class Trainer:
    """Stands in for training: hands out the run it was given, and counts."""

    def __init__(self) -> None:
        self.gives: Made | None = None
        self.calls = 0

    def make(self, request: object, name: str, version: str) -> Made:
        self.calls += 1
        assert self.gives is not None
        return self.gives

    def keep(self, made: Made, runs_dir: Path, started_s: float, key: str = "") -> Path:
        folder = made.write(runs_dir, started_s)
        run = msgspec.structs.replace(read_run(folder), key=key)
        (folder / "run.json").write_bytes(msgspec.json.encode(run))
        return folder


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trainer:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VOLCAST_GATE__MAX_LATENCY_US", "1000")
    monkeypatch.setenv("VOLCAST_GATE__CHAMPION_MARGIN", "0.2")
    standing_in = Trainer()
    monkeypatch.setattr(training_run, "train_bundle", standing_in.make)
    monkeypatch.setattr(training_run, "keep_run", standing_in.keep)
    monkeypatch.setattr(OnnxForecast, "call_us", lambda model, features: 8.0)  # a measurement takes a second
    return standing_in


def retrain(*arguments: object) -> int:
    return run_command(["retrain", "data.ndjson", "--no-track", *map(str, arguments)])


def arrive(text: str) -> None:
    Path("data.ndjson").write_text(text)


def store() -> ModelStore:
    return ModelStore(Path("models"), "volatility")


def aged(hours: float) -> None:
    """As if the candidate had been put on trial so long ago."""
    history = store().history()
    since_ms = int((time.time() - hours * HOUR_S) * 1000)
    store().write_history(History(history.champions, history.candidate, since_ms))


@pytest.fixture
def serving(trainer: Trainer, first: Made) -> Trainer:
    """One model is champion already."""
    trainer.gives = first
    arrive("monday")
    assert retrain("--apply") == 0
    assert store().labels() == Labels("1")
    return trainer


def test_a_dry_run_trains_and_judges_and_apply_need_not_train_again(
    trainer: Trainer, first: Made, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer.gives = first
    arrive("monday")
    assert retrain() == 0
    assert "passes the gate; --apply makes it the champion" in capfd.readouterr().out
    assert not Path("models").exists()
    assert retrain("--apply") == 0
    assert "version 1 is the champion" in capfd.readouterr().out
    assert trainer.calls == 1


def test_the_loop_walks_from_new_data_over_a_shadow_to_a_champion(
    serving: Trainer, second: Made, capfd: pytest.CaptureFixture[str]
) -> None:
    serving.gives = second
    assert retrain("--apply") == 0  # the same data: nothing
    assert serving.calls == 1
    arrive("tuesday")
    assert retrain("--apply") == 0
    assert store().labels() == Labels("1", None, ("2",))
    assert retrain("--apply") == 0  # not yet long enough
    assert "version 2 is a shadow, for another 24.0 h" in capfd.readouterr().out
    aged(hours=25)
    assert retrain() == 0
    assert store().labels() == Labels("1", None, ("2",))
    assert retrain("--apply") == 0
    assert store().labels() == Labels("2")
    assert retrain("--apply", "--json") == 0
    said = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (said["step"], said["applied"], said["version"]) == ("nothing", False, "2")
    assert serving.calls == 2


def test_straight_to_champion_where_no_shadow_is_wanted(serving: Trainer, second: Made) -> None:
    serving.gives = second
    arrive("tuesday")
    assert retrain("--apply", "--straight") == 0
    assert store().labels() == Labels("2")


def test_what_the_gate_refuses_is_not_trained_again_and_exits_3(
    serving: Trainer, first: Made, capfd: pytest.CaptureFixture[str]
) -> None:
    serving.gives = samples.leaky()
    arrive("tuesday")
    assert retrain("--apply") == 3
    said = capfd.readouterr().out
    assert "REFUSED foresight: features are more correlated" in said
    assert store().labels() == Labels("1")
    assert retrain("--apply") == 0
    assert "refused by the gate" in capfd.readouterr().out
    assert serving.calls == 2


def test_a_busy_hour_is_no_verdict_for_ever(serving: Trainer, second: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    serving.gives = second
    arrive("tuesday")
    monkeypatch.setenv("VOLCAST_GATE__MAX_LATENCY_US", "0.001")
    assert retrain("--apply") == 3
    monkeypatch.setenv("VOLCAST_GATE__MAX_LATENCY_US", "1000")
    assert retrain("--apply") == 0
    assert store().labels() == Labels("1", None, ("2",))
    assert serving.calls == 2


def test_a_shadow_that_the_gate_refuses_after_all_is_taken_off_trial(
    serving: Trainer, second: Made, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    serving.gives = second
    arrive("tuesday")
    assert retrain("--apply") == 0
    aged(hours=25)
    monkeypatch.setenv("VOLCAST_GATE__MAX_LATENCY_US", "0.001")
    assert retrain() == 3
    assert store().labels() == Labels("1", None, ("2",))
    assert retrain("--apply") == 3
    assert "it is a shadow no more" in capfd.readouterr().out
    assert store().labels() == Labels("1")
    assert store().history().candidate == ""


def test_a_shadow_that_failed_on_rows_is_not_promoted(
    serving: Trainer, second: Made, capfd: pytest.CaptureFixture[str]
) -> None:
    serving.gives = second
    arrive("tuesday")
    assert retrain("--apply") == 0
    aged(hours=25)
    text = "\n".join(
        f'volcast_server_shadow_{name}_total{{model="volatility",version="2"}} {value}'
        for name, value in (("rows", 5000.0), ("failed_rows", 3.0))
    )
    with metrics(text) as url:
        assert retrain("--server-metrics", url) == 3
    assert "REFUSED shadow: it could not score 3 rows as a shadow" in capfd.readouterr().out
    assert retrain("--server-metrics", "http://127.0.0.1:1/metrics") == 1


def test_two_at_once_are_one_and_an_exit_code(serving: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    with only_one(Path("data/runs")):
        assert retrain("--apply") == 4
    assert capfd.readouterr().err == "volcast: another retraining is under way\n"
    assert retrain("--apply") == 0


def test_a_run_that_was_kept_but_never_judged_is_gone_on_with(serving: Trainer, second: Made) -> None:
    """What a kill between training and judging leaves."""
    serving.gives = second
    arrive("tuesday")
    assert retrain() == 0
    (folder,) = [folder for folder, run in runs(Path("data/runs")) if run.model_sha256 == second.manifest.model_sha256]
    (folder / "gate.json").unlink()
    assert retrain("--apply") == 0
    assert store().labels() == Labels("1", None, ("2",))
    assert serving.calls == 2


def test_a_flat_recording_needs_only_its_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VOLCAST_GATE__MAX_LATENCY_US", "1000")
    write_flat(Path("quotes.csv"), *market(7200, seed=5))
    quick = ("--no-track", "--no-cluster", "--model-type", "har", "--folds", "2", "--json")
    assert run_command(["retrain", "quotes.csv", *quick]) == 1
    assert "add --product NAME" in capfd.readouterr().err
    assert run_command(["retrain", "quotes.csv", "--product", "BTC-USD", *quick]) in (0, 3)
    (folder,) = [folder for folder, _ in runs(Path("data/runs"))]
    assert json.loads(capfd.readouterr().out)["run"] == folder.name
    assert read_bundle(folder / "bundle")[0].rows["ticks"] == 7200


def test_another_column_map_is_another_run(serving: Trainer, second: Made) -> None:
    serving.gives = second
    assert retrain("--apply") == 0
    assert serving.calls == 1
    assert retrain("--product", "ETH-USD") == 0
    assert serving.calls == 2


def test_a_name_that_is_not_valid_is_refused(trainer: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    assert retrain("--name=../elsewhere") == 2
    assert "--name: expected letters, digits, - and _" in capfd.readouterr().err


@pytest.mark.parametrize("folder", [False, True])
def test_without_an_archive_it_says_how_to_get_one(
    trainer: Trainer, folder: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    if folder:
        Path("data/raw").mkdir(parents=True)
    assert run_command(["retrain"]) == 1
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert "no recording in data/raw (ingest.archive_dir)" in line
    assert "`volcast ingest` and `volcast run` record there; or name recordings: volcast retrain FILE..." in line


def test_an_archive_that_is_too_short_is_named_with_what_to_do(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def too_short(*_: object) -> Any:
        raise InputError("too little data: 12 usable rows")

    monkeypatch.setattr(training_run, "train_bundle", too_short)
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/BTC-USD_1.ndjson").touch()
    assert run_command(["retrain", "--no-track"]) == 1
    line = capfd.readouterr().err
    assert "too little data: 12 usable rows. It read data/raw (ingest.archive_dir): record for longer, or name" in line
    assert retrain() == 1
    assert "ingest.archive_dir" not in capfd.readouterr().err


def state(**other: Any) -> State:
    whole: dict[str, Any] = {
        "key": "k",
        "run": None,
        "refused": False,
        "version": "",
        "candidate": "",
        "candidate_age_s": 0.0,
        "stable": "1",
    }
    return State(**(whole | other))


def test_a_candidate_comes_before_new_data() -> None:
    assert next_step(state(candidate="2", candidate_age_s=10), 60) is Step.WAIT
    assert next_step(state(candidate="2", candidate_age_s=60), 60) is Step.PROMOTE
    assert next_step(state(), 60) is Step.TRAIN


def test_a_candidate_that_is_the_champion_already_is_none() -> None:
    assert next_step(state(candidate="1"), 60) is Step.TRAIN


def test_a_folder_is_held_by_one_and_free_afterwards(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(BusyError), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


def test_a_shadow_is_read_from_the_servers_metrics() -> None:
    text = (
        "# HELP volcast_server_shadow_rows_total rows\n"
        'volcast_server_shadow_rows_total{model="volatility",version="2"} 900.0\n'
        'volcast_server_shadow_rows_total{model="volatility",version="22"} 50.0\n'
        'volcast_server_shadow_failed_rows_total{model="volatility",version="2"} 1.0\n'
    )
    report = shadow_report(text, "volatility", "2")
    assert report == ShadowReport(900.0, 1.0, 0.0)
    assert shadow_objections(report, 1000) == [
        "it scored 900 rows as a shadow, at least 1,000 are asked for",
        "it could not score 1 rows as a shadow",
    ]
    assert shadow_objections(ShadowReport(2000, 0, 10), 1000) == []


@contextmanager
def metrics(text: str) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()
