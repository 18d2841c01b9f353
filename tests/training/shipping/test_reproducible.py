"""The same data, code and seed give the same bundle and trained form, byte for byte, in another process too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.bundle import MANIFEST_FILE, MODEL_FILE
from tests.training.runs import draw_rows
from training.models.trees import XGBoost
from training.problem.labels import labels
from training.shipping.trained_model_io import trained_files

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[3]


def train(recording: Path, out: Path, *options: str, hash_seed: int) -> dict[str, bytes]:
    """The files of a training in a process of its own, run and all."""
    out.mkdir()
    command = [sys.executable, "-m", "cli.main", "train", str(recording), "--no-cluster", "--trials", "1"]
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
    return {f"{one.parent.name}/{one.name}": one.read_bytes() for folder in folders for one in folder.iterdir()}


@pytest.mark.timeout(400)
def test_another_process_makes_the_same_bytes(recording: Path, tmp_path: Path) -> None:
    first = train(recording, tmp_path / "first", "--model-type", "xgboost", hash_seed=1)
    second = train(recording, tmp_path / "second", "--model-type", "xgboost", hash_seed=2)
    assert {f"1/{MODEL_FILE}", f"1/{MANIFEST_FILE}", "trained/trees.ubj", "evidence/rows.parquet"} <= set(first)
    assert first[f"1/{MODEL_FILE}"] == first[f"bundle/{MODEL_FILE}"]
    assert [name for name in first if first[name] != second.get(name)] == []


def test_another_seed_makes_another_model() -> None:
    """So the test above could fail: the seed does reach the trees."""
    rows = draw_rows(600, seed=1)
    kind = XGBoost()
    params = {**kind.defaults(rows.schema), "trees": 20}
    first, again, second = (kind.fit(rows, labels(rows.future_volatility, 1.0), params, seed) for seed in (1, 1, 2))
    assert trained_files(first) == trained_files(again)
    assert trained_files(first) != trained_files(second)
