"""The bundle in the repository loads and answers as it promises (that one is made again: test_bundle.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.bundle import Manifest, read_bundle
from common.schema import CORE_1
from training.shipping.conversion import PARITY_LIMIT
from training.shipping.onnx_model import OnnxModel

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "models" / "volatility" / "1"


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_bundle(FOLDER)[0]


def test_it_loads_and_takes_core_1(manifest: Manifest) -> None:
    assert manifest.feature_schema().hash == CORE_1.hash
    assert manifest.parity_max_abs_error <= PARITY_LIMIT


def test_it_answers_its_self_test(manifest: Manifest) -> None:
    row = np.array([manifest.self_test.features])
    assert OnnxModel(read_bundle(FOLDER)[1]).probabilities(row)[0] == pytest.approx(
        manifest.self_test.probability, abs=1e-9
    )


def test_it_says_more_when_the_market_moves_more(manifest: Manifest) -> None:
    calm = np.array([[90e3, 90e3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.05, 0.01, 1e-7, 0.0]])
    wild = np.array([[90e3, 90e3, 1e-3, 2e-3, 4e-3, 4e-3, 3e-3, 10.0, 5.0, 5e-5, 0.0]])
    probability = OnnxModel(read_bundle(FOLDER)[1]).probabilities(np.concatenate([calm, wild]))
    assert probability[0] < 0.01
    assert probability[1] > 0.99


def test_the_reserved_recording_of_april_2026_was_not_touched(manifest: Manifest) -> None:
    assert all(name.startswith("BTC-USD_202512") for name in manifest.data)
