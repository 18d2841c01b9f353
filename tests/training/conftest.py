from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.synthetic import market, write_recording

SECONDS = 7200


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hours of one tick a second."""
    return write_recording(tmp_path_factory.mktemp("recordings") / "BTC-USD_made_up.ndjson", *market(SECONDS, seed=3))
