"""Published clients of the protocol, unchanged, in their own environments that .ci/oip_clients makes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

from tests.server.bundles import Logistic, rows
from tests.server.forecast_server import forecast_server
from tests.server.processes import Process, running
from volcast.oip.v2.open_inference_pb2 import DESCRIPTOR

PROGRAMS = Path(__file__).parent / "clients"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "volcast" / "oip"
COUNT = 3


def messages(descriptors: Any) -> dict[str, dict[int, tuple[str, int, str]]]:
    """Name, type and message of each field, by message and number."""
    fields: dict[str, dict[int, tuple[str, int, str]]] = {}
    descriptor: Descriptor
    for descriptor in descriptors:
        fields[descriptor.full_name] = {
            field.number: (field.name, field.type, field.message_type.full_name if field.message_type else "")
            for field in descriptor.fields
        }
        fields |= messages(descriptor.nested_types)
    return fields


@pytest.fixture
def forecasts(front: str, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Addresses of a server with forecast models, behind each front, and of its gateway."""
    with (
        forecast_server(tmp_path / "models", VOLCAST_SERVER__FRONT=front) as process,
        running("gateway", "--port", "0", "--server", process.address) as gateway,
    ):
        yield process.address, gateway.address


@pytest.mark.oip_clients
@pytest.mark.parametrize("client", ["tritonclient", "kserve"])
def test_a_session_of_the_client_succeeds(
    client: str, server: Process, oip_gateway: str, forecasts: tuple[str, str], tmp_path: Path
) -> None:
    python = CACHE / client / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no environment for {client}; .ci/oip_clients makes one")
    settings = tmp_path / "session.json"
    settings.write_text(
        json.dumps(
            {
                "grpc": server.address,
                "http": oip_gateway,
                "forecast_grpc": forecasts[0],
                "forecast_http": forecasts[1],
                "model": "volatility",
                "stable": "10",
                "other": "9",
                "rows": rows(COUNT).tolist(),
                "expected": {str(seed): Logistic(seed).predict(rows(COUNT)).tolist() for seed in (9, 10)},
                "messages": messages(DESCRIPTOR.message_types_by_name.values()),
            }
        )
    )
    program = PROGRAMS / f"{client.removesuffix('client')}_session.py"
    done = subprocess.run([python, program, settings], capture_output=True, text=True, timeout=90, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 20
