"""The bundle of trees is one that a server takes, and says what the fitted trees say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import trees
from common.bundle import read_bundle
from server.core.bundles import load_model
from tests.server import bundles


def test_the_server_loads_it_and_its_self_test_agrees(tmp_path: Path) -> None:
    told = trees.tree_bundle(tmp_path, 4, 300)
    assert told.startswith("4 trees of depth 5, ")
    manifest, _ = read_bundle(tmp_path / "volatility" / "1")
    assert manifest.parity_max_abs_error < trees.TOLERANCE
    load_model(tmp_path / "volatility" / "1", "volatility", "1")


def test_its_probabilities_differ_from_row_to_row(tmp_path: Path) -> None:
    trees.tree_bundle(tmp_path, 4, 300)
    _, model = read_bundle(tmp_path / "volatility" / "1")
    assert len(np.unique(trees._score(model, bundles.rows(50)))) > 10


def test_a_wrong_export_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "_below", lambda thresholds: thresholds * 2)
    with pytest.raises(RuntimeError, match="the exported trees differ"):
        trees.tree_bundle(tmp_path, 4, 300)
