"""What the embedded broker's command says of itself."""

from __future__ import annotations

import signal

import pytest

from benchmarks.processes import free_port
from cli.run.plan import Exchange, environment
from cli.run.processes import ProcessGroup
from common.config import Config
from tests.processes import start


@pytest.mark.usefixtures("broker")
def test_the_ready_line_names_the_settings_that_run_gives_to_its_clients(parts: ProcessGroup) -> None:
    part = start(parts, "broker", ["broker", "--port", str(free_port())])
    assert part.popen is not None
    part.popen.send_signal(signal.SIGTERM)
    part.popen.wait(10)
    (ready,) = [line for line in part.log.read_text().splitlines() if "ready" in line]
    given = environment(Config(), Exchange.parse("simulated"), "", "")
    for key in ("fetch_wait_ms", "session_timeout_ms"):
        assert f"kafka.{key}: {given[f'VOLCAST_KAFKA__{key.upper()}']}" in ready
