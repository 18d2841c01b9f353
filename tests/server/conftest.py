from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.server.bundles import write_bundle
from tests.server.processes import Process, serve

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
