"""The last digits of a probability may depend on the batch, within the tolerance that docs/contract.md states."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from server.core.bundles import load_model
from server.core.snapshot import Model

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
CONTRACT = (ROOT / "docs" / "contract.md").read_text()
VERSIONS = sorted((folder.parent.name, folder.name) for folder in MODELS.glob("*/[0-9]*"))
ROWS = 512


def stated_tolerance() -> float:
    section = CONTRACT.split("### `PredictResponse`")[1].split("###")[0]
    stated = re.search(r"up to ([0-9.e-]+) was measured on rows far from the training data", " ".join(section.split()))
    assert stated is not None, section
    return float(stated[1])


def rows_of(model: Model) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Rows of widely different sizes, as a live market never has them together."""
    random = np.random.default_rng(5)
    matrix = random.lognormal(-6.0, 3.0, (ROWS, len(model.schema)))
    matrix[:, :2] = random.lognormal(8.0, 2.0, (ROWS, 1))  # price and mid
    return np.ascontiguousarray(matrix)


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_a_row_in_a_batch_has_its_own_probability_within_the_stated_tolerance(name: str, version: str) -> None:
    model = load_model(MODELS / name / version, name, version)
    matrix = rows_of(model)
    single = np.concatenate([model.predictor.predict(matrix[row : row + 1]) for row in range(ROWS)])
    for size in (2, 3, 5, 16, 33, 256, ROWS):
        batches = [model.predictor.predict(matrix[start : start + size]) for start in range(0, ROWS, size)]
        assert np.max(np.abs(np.concatenate(batches) - single)) <= stated_tolerance()
