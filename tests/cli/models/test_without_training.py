"""list, verify, add and rollback run where only the serving and models extras are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.labels import Labels
from common.model_store import History, ModelStore, Reign
from tests.server.bundles import Logistic

ROOT = Path(__file__).resolve().parents[3]
# As in a server's container: neither the training extra nor the folders that it belongs to.
ABSENT = (
    "training", "pipeline", "benchmarks", "sklearn", "mlflow", "xgboost", "lightgbm", "pandas", "pyarrow", "scipy",
    "evidently", "matplotlib", "optuna", "dask", "distributed", "skl2onnx", "onnxmltools", "numba", "confluent_kafka",
)  # fmt: skip
RUN = """
import os, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in os.environ["ABSENT"].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from cli.main import run_command
sys.exit(run_command(sys.argv[1:]))
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The shipped models, with a champion before the one of today."""
    shutil.copytree(ROOT / "models", tmp_path / "models")
    store = ModelStore(tmp_path / "models", "volatility")
    store.write_labels(Labels("3"))
    store.write_history(History((Reign("3", "2", "run", 0),)))
    return tmp_path


def volcast(here: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ABSENT": " ".join(ABSENT), **environ}
    command = [sys.executable, "-c", RUN, "models", *arguments]
    return subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_list_shows_versions_and_why_they_ship(here: Path) -> None:
    done = volcast(here, "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert "volatility-full" in done.stdout
    assert "lead on HAR logit" in done.stdout


@pytest.mark.parametrize("name", ["my.model", "-x", "é"])
def test_list_shows_a_folder_of_a_name_that_no_command_takes(here: Path, name: str) -> None:
    shutil.copytree(here / "models" / "volatility", here / "models" / name)
    done = volcast(here, "list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert name in {row["name"] for row in json.loads(done.stdout)["models"]}


def test_verify_loads_a_bundle(here: Path) -> None:
    done = volcast(here, "verify", "volatility", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ok      load" in done.stdout


def test_add_writes_a_version(here: Path) -> None:
    (here / "mine.onnx").write_bytes(Logistic(1).graph().SerializeToString())
    done = volcast(here, "add", "mine.onnx", "--name", "mine", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["folder"] == "models/mine/1"


def test_rollback_moves_the_label_and_leaves_the_alias_for_later(here: Path) -> None:
    done = volcast(here, "rollback", "volatility")
    assert done.returncode == 0
    assert "version 2 is now the champion" in done.stdout
    gate, alias = done.stderr.splitlines()
    assert gate.startswith("volcast: WARNING: version 2 gives one probability and no forecast, which the gate does not")
    assert alias.startswith("volcast: MLflow's alias stays: training is not installed (extra [training])")


def test_rollback_imports_no_library_of_training(here: Path) -> None:
    """Where everything is installed; each of these libraries takes seconds to import."""
    libraries = " ".join(name for name in ABSENT if name not in ("training", "pipeline"))
    done = volcast(here, "rollback", "volatility", ABSENT=libraries, MLFLOW_TRACKING_URI="sqlite:///data/mlflow.db")
    assert done.returncode == 0
    assert "MLflow" not in done.stderr
    assert not (here / "data").exists()


@pytest.mark.parametrize("arguments", [("promote", "volatility", "3"), ("sync",)])
def test_what_needs_the_training_extra_names_it(here: Path, arguments: tuple[str, ...]) -> None:
    done = volcast(here, *arguments)
    assert done.returncode == 1
    named = f"volcast: `volcast models {arguments[0]}` needs the extra [training]: "
    assert done.stderr.startswith(named)
    assert done.stderr.count("\n") == 1


def test_add_without_onnx_names_its_extra(here: Path) -> None:
    (here / "onnx.py").write_text("raise ModuleNotFoundError('No module named onnx', name='onnx')")
    (here / "mine.onnx").write_bytes(b"")
    done = volcast(here, "add", "mine.onnx", "--name", "mine", PYTHONPATH=f"{here}:{ROOT}")
    assert done.returncode == 1
    assert done.stderr == "volcast: `volcast models add` needs the extra [models]: onnx is not installed (make setup)\n"
