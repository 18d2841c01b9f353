from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.bundles import write_bundle
from tests.server.forecast_server import forecast_server
from tests.server.processes import Process, serve


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder, seed=1)
    write_bundle(folder, version="2", seed=2)
    return folder


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[Process]:
    with serve(models) as process:
        yield process


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(scope="session")
def forecasts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server process with forecast models beside a model of a single probability."""
    with forecast_server(tmp_path_factory.mktemp("forecast-models")) as process:
        yield process
