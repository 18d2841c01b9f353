from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.server.processes import Process, running


@pytest.fixture(scope="session")
def gateway(server: Process) -> Iterator[httpx.Client]:
    """A gateway process in front of the server process."""
    with (
        running("gateway", "--port", "0", "--server", server.address) as process,
        httpx.Client(base_url=f"http://{process.address}", trust_env=False) as client,
    ):
        yield client
