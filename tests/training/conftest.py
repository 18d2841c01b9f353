from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.synthetic import market, write_recording
from training.fitting import experiment
from training.fitting.experiment import Experiment, Settings
from training.fitting.search import Budget
from training.problem.data import Dataset, load

SECONDS = 7200


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hours of one tick a second."""
    return write_recording(tmp_path_factory.mktemp("recordings") / "BTC-USD_made_up.ndjson", *market(SECONDS, seed=3))


@pytest.fixture(scope="session")
def dataset(recording: Path) -> Dataset:
    return load([recording])


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings(folds=3, budget=Budget(trials=2, choices=3, rows=500))


@pytest.fixture(scope="session")
def trained(dataset: Dataset, settings: Settings) -> Experiment:
    return experiment.run(dataset.rows, settings)


@pytest.fixture(autouse=True, scope="session")
def few_resamples() -> Iterator[None]:
    """Intervals are as wide with fewer draws, only rougher; the test of the shipped bundle draws them all."""
    patch = pytest.MonkeyPatch()
    patch.setattr(experiment, "DECISION_RESAMPLES", 20)
    yield
    patch.undo()
