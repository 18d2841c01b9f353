"""The same data, code and seed give the same bundle and trained form, byte for byte, in another process too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from common.bundle import MANIFEST_FILE, MODEL_FILE, Manifest
from tests.training.forecasting.samples import sample_rows
from training.forecasting.kinds import kind_named
from training.judging.evaluation_result import decode
from training.shipping.trained_form import trained_files

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[3]


def train(recording: Path, out: Path, *options: str, hash_seed: int) -> dict[str, bytes]:
    """The files of a training in a process of its own, run and all."""
    out.mkdir()
    command = [sys.executable, "-m", "cli.main", "train", str(recording), "--no-cluster"]
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": str(hash_seed),  # the order of sets and of dictionaries made of them
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",  # nobody is there: the run waits in its folder
    }
    command += ["--folds", "2", "--out", "models", *options]
    done = subprocess.run(command, cwd=out, env=environ, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "\nvolcast: tracking server http://127.0.0.1:1 is away: Connection refused" in done.stderr
    (run,) = (out / "data" / "runs").iterdir()
    folders = [out / "models" / "volatility" / "1", run / "bundle", run / "trained", run / "evidence", run / "plots"]
    files = [(folder, file) for folder in folders for file in folder.rglob("*") if file.is_file()]
    return {f"{folder.name}/{file.relative_to(folder)}": file.read_bytes() for folder, file in files}


@pytest.mark.timeout(400)
def test_another_process_makes_the_same_bytes(recording: Path, tmp_path: Path) -> None:
    first = train(recording, tmp_path / "first", "--model-type", "xgboost", hash_seed=1)
    second = train(recording, tmp_path / "second", "--model-type", "xgboost", hash_seed=2)
    assert {f"1/{MODEL_FILE}", f"1/{MANIFEST_FILE}", "trained/trees.json", "evidence/rows.parquet"} <= set(first)
    assert first[f"1/{MODEL_FILE}"] == first[f"bundle/{MODEL_FILE}"]
    assert [name for name in first if first[name] != second.get(name)] == []
    manifest = msgspec.json.decode(first[f"1/{MANIFEST_FILE}"], type=Manifest)
    evaluation = decode(first["plots/model_eval.json"], "of the run")
    assert evaluation.model is not None
    assert (evaluation.model.name, evaluation.model.model_sha256) == ("volatility", manifest.model_sha256)
    assert (evaluation.data.files, evaluation.data.sha256) == (manifest.data, manifest.data_sha256)
    assert evaluation.data.products == ("BTC-USD",)
    assert evaluation.data.counts["rows"] == manifest.rows["rows"]


def test_another_seed_makes_another_model() -> None:
    """So the test above can fail: the seed does reach the trees."""
    rows, kind = sample_rows(1500), kind_named("xgboost")
    first, again, second = (trained_files(kind.fit(rows, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != second
