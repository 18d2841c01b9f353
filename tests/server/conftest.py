from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import grpc
import httpx
import pytest

from server.core.dataplane import DataPlane
from server.core.models import Repository
from tests.server.bundles import write_bundle
from tests.server.forecast_server import write_models
from tests.server.processes import Process, running, serve

MAX_MESSAGE_BYTES = 64 * 1024
MAX_ROWS = 500


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """volatility/9 and /10 (stable), /11 (damaged), jumps/1."""
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder, version="9", seed=9)
    write_bundle(folder, version="10", seed=10, threshold=0.25)
    write_bundle(folder, version="11", seed=11)
    (folder / "volatility" / "11" / "model.onnx").write_bytes(b"damaged")
    write_bundle(folder, "jumps", "1", seed=2)
    return folder


@pytest.fixture(scope="session", params=["native", "grpcio"])
def front(request: pytest.FixtureRequest) -> str:
    """Each front there is: what takes this runs over all of them."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def server(front: str, models: Path) -> Iterator[Process]:
    """A server process; the conformance suite asks it."""
    limits = {
        "VOLCAST_SERVER__FRONT": front,
        "VOLCAST_SERVER__MAX_ROWS": str(MAX_ROWS),
        "VOLCAST_SERVER__MAX_MESSAGE_BYTES": str(MAX_MESSAGE_BYTES),
    }
    with serve(models, **limits) as process:
        yield process


@pytest.fixture(scope="session")
def channel(server: Process) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="session")
def forecast_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of `write_models`."""
    return write_models(tmp_path_factory.mktemp("forecast-models"))


@pytest.fixture(scope="session")
def forecast_plane(forecast_models: Path) -> DataPlane:
    repository = Repository("volatility")
    assert repository.load(forecast_models).failures == ()
    ticks = count(1000, 10)
    return DataPlane(repository, max_rows=4096, now_ns=lambda: next(ticks))


@pytest.fixture(scope="session")
def forecast_gateway(forecast_models: Path) -> Iterator[httpx.Client]:
    """A gateway process in front of a server process with the forecast models."""
    with (
        serve(forecast_models) as server,
        running("gateway", "--port", "0", "--server", server.address) as process,
        httpx.Client(base_url=f"http://{process.address}", trust_env=False, timeout=20) as client,
    ):
        yield client
