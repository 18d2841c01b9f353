from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from cli.main import run_command
from common.bundle import read_bundle
from common.schema import FULL_1
from tests.training.commands.said import one_line
from tests.training.synthetic import market, write_flat, write_recording

QUICK = ("--no-cluster", "--model-type", "logistic", "--folds", "2")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "models"


def train(*arguments: object) -> int:
    return run_command(["train", "--no-track", *QUICK, *map(str, arguments)])


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("long") / "BTC-USD_long.ndjson", *market(7200, seed=5))


def test_writes_a_bundle_and_says_what_it_did(
    long_recording: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(long_recording, "--out", out) == 0
    text = capfd.readouterr().out
    words = ("CRPS", "HAR", "Logistic", "PR-AUC", "walk-forward", "Final part", "base rate", "a row takes")
    assert [word for word in words if word not in " ".join(text.split())] == []
    assert f"wrote {out / 'volatility' / '1'}" in text
    assert read_bundle(out / "volatility" / "1")[0].data == (long_recording.name,)
    assert (out / "volatility" / "1" / "trained.json").is_file()


def test_the_same_bundle_is_not_written_again(
    long_recording: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(long_recording, "--out", out) == 0
    capfd.readouterr()
    assert train(long_recording, "--out", out) == 0
    last_line = capfd.readouterr().out.splitlines()[-1]
    assert last_line == f"nothing written: {out / 'volatility' / '1'} holds the same bundle"
    assert [path.name for path in (out / "volatility").iterdir() if path.is_dir()] == ["1"]
    assert train(long_recording, "--out", out, "--json") == 0
    printed = json.loads(capfd.readouterr().out)
    assert (printed["bundle"], printed["written"]) == (str(out / "volatility" / "1"), False)
    assert train(long_recording, "--out", out, "--version", 2, "--json") == 0
    assert json.loads(capfd.readouterr().out)["written"]
    assert (out / "volatility" / "2" / "model.onnx").is_file()


def test_json_is_one_object_and_the_next_version_is_taken(
    long_recording: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (out / "volatility" / "1").mkdir(parents=True)
    assert train("--data", long_recording, "--out", out, "--json") == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed["bundle"] == str(out / "volatility" / "2")
    assert printed["metrics"].keys() == {"climatology", "zscore", "har", "logistic"}
    assert printed["rows"]["ticks"] == 7200
    assert (printed["kind"], printed["schema"]) == ("logistic", "core/1")


def test_full_1_is_served_under_a_name_of_its_own(
    long_recording: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(long_recording, "--out", out, "--schema", "full/1", "--model-type", "har") == 0
    manifest, _ = read_bundle(out / "volatility-full" / "1")
    assert (manifest.kind, manifest.schema.hash) == ("har", FULL_1.hash)
    assert len(manifest.inputs) == 3


def test_a_kind_that_needs_another_schema_is_refused(
    long_recording: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(long_recording, "--out", out, "--model-type", "ewma") == 1
    assert "schema core/1: no feature ewma_volatility" in one_line(capfd)
    assert not out.exists()


def test_spike_size_and_alert_level_are_recorded(
    long_recording: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(long_recording, "--out", out, "--spike-bps", 4, "--alert-level", 0.3) == 0
    manifest, _ = read_bundle(out / "volatility" / "1")
    assert manifest.forecast is not None
    assert (manifest.forecast.spike_bps, manifest.decision_threshold) == (4.0, 0.3)
    assert manifest.forecast.baselines.keys() == {"climatology", "zscore", "har"}


def test_a_flat_recording_needs_only_its_product(
    long_recording: Path, out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flat = write_flat(tmp_path / "quotes.csv", *market(7200, seed=5))
    assert train(flat, "--product", "BTC-USD", "--out", out, "--json") == 0
    output = capfd.readouterr()
    assert json.loads(output.out)["rows"]["ticks"] == 7200
    assert "quotes.csv: CSV, one row per tick: time=time, bid=bid, ask=ask" in output.err


def test_a_cluster_and_none_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert train("--cluster", "tcp://127.0.0.1:9") == 2
    assert "--cluster and --no-cluster: choose one" in one_line(capfd)


def test_an_existing_version_is_named(out: Path, recording: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (out / "volatility" / "3").mkdir(parents=True)
    assert train(recording, "--out", out, "--version", 3) == 2
    assert "exists: choose another --version, or replace it with --force" in one_line(capfd)


def test_an_unknown_model_type_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert train("--model-type", "oracle") == 2
    assert "'oracle' is not" in one_line(capfd)


def test_without_data_it_says_where_it_looked(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VOLCAST_DATA_DIR", str(tmp_path))
    assert train("--out", out) == 1
    line = one_line(capfd)
    assert "no data for --dataset ticks" in line
    assert "VOLCAST_DATA_DIR" in line
    assert "../shared/data" in line


def test_files_and_data_together_are_refused(recording: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(recording, "--data", recording) == 2
    assert "not both" in one_line(capfd)


def test_a_file_that_is_not_there_is_named(out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "absent.ndjson", "--out", out) == 1
    assert "absent.ndjson: no such file" in one_line(capfd)


def test_a_corrupt_file_is_named_with_its_first_fault(
    out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.ndjson.gz"
    damaged.write_bytes(gzip.compress(b"x" * 1000)[:-12])
    assert train(damaged, "--out", out) == 1
    line = one_line(capfd)
    assert "no tick in" in line
    assert "damaged.ndjson.gz:1" in line
    assert not out.exists()


def test_damaged_lines_are_counted_and_the_rest_is_used(
    long_recording: Path, out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.ndjson"
    lines = long_recording.read_text().splitlines()
    lines[100] = lines[100][:50]
    damaged.write_text("\n".join(lines))
    assert train(damaged, "--out", out, "--json") == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    assert rows["dead_not_json"] == 1
    assert rows["ticks"] == 7199


def test_too_little_data_is_explained(out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    short = write_recording(tmp_path / "short.ndjson", *market(600, seed=0))
    assert train(short, "--out", out) == 1
    assert "too little data: fold 1 has " in one_line(capfd)
    assert not out.exists()


def test_a_market_that_stands_still_is_told(out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    time_ns, mid = market(1500, seed=0)
    still = write_recording(tmp_path / "still.ndjson", time_ns, 0 * mid + 90_000)
    assert train(still, "--out", out) == 1
    assert "the mid stood still in the minute after each of" in one_line(capfd)


@pytest.mark.parametrize("name", ["../elsewhere", "-x", "é"])
def test_a_name_that_is_not_valid_is_refused(
    name: str, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(recording, f"--name={name}") == 2
    assert "--name: expected letters, digits" in one_line(capfd)


def test_help_shows_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    assert train("--help") == 0
    assert "volcast train --data data/raw" in capfd.readouterr().out


def test_data_without_a_name_is_refused_rather_than_taken_for_the_default(capfd: pytest.CaptureFixture[str]) -> None:
    assert train("--data", "") == 2
    assert "--data: expected FILE|DIR|GLOB, got ''" in one_line(capfd)
