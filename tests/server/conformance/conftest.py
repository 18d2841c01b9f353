from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.server.bundles import other_schema, write_bundle
from tests.server.conformance.calls import channel_to
from tests.server.processes import Process, serve

PATIENCE_S = 0.25  # how long a call waits for others to share its batch
MAX_QUEUE = 16
MAX_STREAMS = 64
MAX_METADATA_BYTES = 4096


@pytest.fixture(scope="session")
def patient(front: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server where calls wait for a batch, so that what happens meanwhile can be shown; rows without a limit
    that matters. volatility/1 and /2 (stable), jumps/1, and other/1, which takes another schema."""
    models = tmp_path_factory.mktemp("patient")
    write_bundle(models, version="1", seed=1)
    write_bundle(models, version="2", seed=3)
    write_bundle(models, "jumps", "1", seed=2)
    write_bundle(models, "other", "1", seed=4, change=other_schema)
    limits = {
        "FRONT": front,
        "MAX_QUEUE": MAX_QUEUE,
        "MAX_QUEUE_DELAY_US": round(PATIENCE_S * 1e6),
        "MAX_CONCURRENT_STREAMS": MAX_STREAMS,
        "MAX_METADATA_BYTES": MAX_METADATA_BYTES,
    }
    with serve(models, **{f"VOLCAST_SERVER__{key}": str(value) for key, value in limits.items()}) as process:
        yield process


@pytest.fixture
def waiting(patient: Process) -> Iterator[grpc.Channel]:
    with channel_to(patient.address) as channel:
        yield channel
