"""Predictions while models are swapped: no call fails, and each response comes from a single version."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from server.core.bundles import FolderScan, scan_folder
from server.core.models import Repository
from server.core.requests import Selection
from tests.lengths import length
from tests.processes import await_true
from tests.server.bundles import Logistic, rows, write_bundle

SWAPS = length(30, 300)
CALLERS = 3


@pytest.mark.slow
def test_swaps_fail_no_prediction_and_mix_no_versions(tmp_path: Path) -> None:
    """Every swap puts other weights under the same version, and moves the label too."""
    staged = [write_bundle(tmp_path / f"staged-{seed}", version="1", seed=seed) for seed in range(5)]
    models = tmp_path / "models"
    target = models / "volatility" / "1"
    shutil.copytree(staged[0], target)
    repository = Repository("volatility")
    repository.load(models)
    matrix = rows(16)
    known = [Logistic(seed).predict(matrix) for seed in range(5)]
    stop = threading.Event()
    seen: list[set[int]] = [set() for _ in range(CALLERS)]
    faults: list[str] = []

    def call(number: int) -> None:
        while not stop.is_set():
            try:
                answer = repository.resolve(Selection()).predictor.predict(matrix)
            except Exception as error:
                faults.append(repr(error))
                return
            whose = [seed for seed in range(5) if np.allclose(answer, known[seed], rtol=0, atol=1e-12)]
            if len(whose) != 1:
                faults.append(f"an answer of {len(whose)} versions")
                return
            seen[number].add(whose[0])

    callers = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    for swap in range(1, SWAPS + 1):
        for name in ("model.onnx", "manifest.json"):
            shutil.copy(staged[swap % 5] / name, target / name)
        changes = repository.reload(models)
        assert [model.version for model in changes.loaded] == ["1"]
    stop.set()
    for caller in callers:
        caller.join()
    assert faults == []
    assert set.union(*seen) == set(range(5))
    assert repository.swaps == SWAPS + 1


def test_two_loads_never_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path)
    repository = Repository("volatility")
    second_asks, overlap = threading.Event(), threading.Event()
    inside = 0

    def looking(folder: Path) -> FolderScan:
        nonlocal inside
        inside += 1
        if inside > 1:
            overlap.set()
        second_asks.wait(30)
        overlap.wait(0.1)  # what a second load would need to get here, were it let in
        inside -= 1
        return scan_folder(folder)

    monkeypatch.setattr("server.core.models.scan_folder", looking)

    def second() -> None:
        second_asks.set()
        repository.load(tmp_path)

    loaders = [threading.Thread(target=repository.load, args=(tmp_path,)), threading.Thread(target=second)]
    loaders[0].start()
    await_true(lambda: inside == 1)
    loaders[1].start()
    for loader in loaders:
        loader.join()
    assert not overlap.is_set()
    assert repository.swaps == 1
