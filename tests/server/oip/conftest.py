from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from common.errors import UnavailableError
from server.core.dataplane import DataPlane
from server.core.models import Repository
from server.oip.service import OpenInference
from server.state import ServerState
from tests.server.conftest import MAX_ROWS
from tests.server.oip.door import served
from tests.server.processes import running


@pytest.fixture(scope="session")
def plane(models: Path) -> DataPlane:
    repository = Repository("volatility")
    repository.load(models)
    return DataPlane(repository, MAX_ROWS, lambda: 0)


@pytest.fixture
def state() -> ServerState:
    return ServerState(build="1.2.3", front="test", ready=True)


@pytest.fixture
def service(plane: DataPlane, state: ServerState) -> OpenInference:
    return OpenInference(plane.repository, state)


def reload() -> None:
    raise UnavailableError("the models folder is being read")


@pytest.fixture(scope="session")
def oip_server(plane: DataPlane) -> Iterator[str]:
    """host:port of the protocol's methods. Its reload is always busy."""
    state = ServerState(build="1.2.3", front="test", ready=True)
    with served(OpenInference(plane.repository, state, reload).methods(), plane) as address:
        yield address


@pytest.fixture(scope="session")
def oip_gateway(oip_server: str) -> Iterator[str]:
    """host:port of a gateway in front of it."""
    with running("gateway", "--port", "0", "--server", oip_server) as process:
        yield process.address


@pytest.fixture(scope="session")
def rest(oip_gateway: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{oip_gateway}", trust_env=False) as client:
        yield client


@pytest.fixture
def unreachable() -> Iterator[httpx.Client]:
    """A gateway whose server does not exist."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (
        running("gateway", "--port", "0", "--server", f"127.0.0.1:{port}") as process,
        httpx.Client(base_url=f"http://{process.address}", trust_env=False) as client,
    ):
        yield client
