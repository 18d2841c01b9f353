"""Exports of common libraries are added as they are, and a server answers with the original model's probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from cli.main import run_command
from clients.sync import Client
from common.schema import CORE_1
from tests.cli.models.exports import SEVEN, seven
from tests.server.bundles import rows
from tests.server.processes import serve
from volcast.v1 import ModelSelector

pytestmark = [pytest.mark.process, pytest.mark.slow]

NAMES = {title: f"model-{number}" for number, title in enumerate(SEVEN)}
FLOAT32 = 2e-6  # the files compute in float32


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("added")
    for title, name in NAMES.items():
        path = folder / f"{name}.onnx"
        path.write_bytes(seven(title).model.SerializeToString())
        assert run_command(["models", "add", str(path), "--name", name, "--models-dir", str(folder / "models")]) == 0
    return folder / "models"


@pytest.fixture(scope="module")
def client(added: Path) -> Iterator[Client]:
    with serve(added, VOLCAST_SERVER__DEFAULT_MODEL="model-0") as process, Client(process.address) as client:
        yield client


@pytest.mark.parametrize("title", SEVEN)
def test_a_common_export_is_added_and_served_with_the_models_own_probabilities(client: Client, title: str) -> None:
    matrix = rows(64, 11)
    selector = ModelSelector(name=NAMES[title])
    response = client.predict_packed(matrix.tobytes(), len(matrix), CORE_1.hash, model=selector)
    expected = seven(title).probabilities(matrix)
    assert np.ptp(expected) > 0.1
    assert_allclose(response.probabilities, expected, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("title", SEVEN)
def test_verify_accepts_what_was_added(added: Path, title: str) -> None:
    assert run_command(["models", "verify", NAMES[title], "1", "--models-dir", str(added)]) == 0
