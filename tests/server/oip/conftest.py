from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from common.errors import VolcastError
from server.core.dataplane import DataPlane, Result
from server.core.models import Repository
from server.core.requests import PredictInput
from server.oip.service import OpenInference
from server.runtime.state import ServerState
from tests.server.conftest import MAX_ROWS
from tests.server.processes import Process, running


@pytest.fixture(scope="session")
def plane(models: Path) -> DataPlane:
    repository = Repository("volatility")
    repository.load(models)
    return DataPlane(repository, MAX_ROWS, lambda: 0)


def score(plane: DataPlane, request: PredictInput | VolcastError) -> Result:
    """Scores a request that a service has decoded, as a front does."""
    if isinstance(request, VolcastError):
        raise request
    (outcome,) = plane.compute([plane.prepare(request, 0)]).outcomes
    if isinstance(outcome, VolcastError):
        raise outcome
    return outcome


def outputs_of(plane: DataPlane) -> Callable[[PredictInput], tuple[str, ...]]:
    """The outputs of the model that answers a request."""
    return OpenInference(plane.repository, ServerState(build="", front="")).outputs_of


@pytest.fixture
def state() -> ServerState:
    return ServerState(build="1.2.3", front="test", ready=True)


@pytest.fixture
def service(plane: DataPlane, state: ServerState) -> OpenInference:
    return OpenInference(plane.repository, state)


@pytest.fixture(scope="session")
def oip_gateway(server: Process) -> Iterator[str]:
    """host:port of a gateway in front of the server, behind each front."""
    with running("gateway", "--port", "0", "--server", server.address) as process:
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
