"""/metrics on a socket that listens already, whatever callers do."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from common.metrics import MetricsServer, serve_registry
from common.ports import open_port
from common.streams import count_lost_line, lost_lines


class Failing(Collector):
    def __init__(self) -> None:
        self.fails = True

    def collect(self) -> Iterator[Metric]:
        if self.fails:
            raise RuntimeError("a fault of ours")
        yield from ()


@pytest.fixture
def failing() -> Failing:
    return Failing()


@pytest.fixture
def server(failing: Failing) -> Iterator[MetricsServer]:
    registry = CollectorRegistry()
    Gauge("answer", "Of all.", registry=registry).set(42)
    failing.fails = False
    registry.register(failing)
    with serve_registry(open_port("127.0.0.1", 0, "--metrics-port"), registry) as server:
        yield server


def scrape(server: MetricsServer) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_the_registry_and_the_lost_log_lines_are_served(server: MetricsServer) -> None:
    count_lost_line()
    lines = scrape(server).splitlines()
    assert "answer 42.0" in lines
    assert f"volcast_log_lines_lost_total {float(lost_lines())}" in lines


def test_a_fault_of_a_collector_ends_one_scrape_and_prints_nothing(
    server: MetricsServer, failing: Failing, capfd: pytest.CaptureFixture[str]
) -> None:
    failing.fails = True
    with pytest.raises(urllib.error.HTTPError, match="500") as raised:
        scrape(server)
    raised.value.close()
    failing.fails = False
    assert "answer 42.0" in scrape(server)
    assert "Traceback" not in capfd.readouterr().err


def test_a_caller_that_leaves_prints_nothing(server: MetricsServer, capfd: pytest.CaptureFixture[str]) -> None:
    for request in (b"", b"GET /metrics HTTP/1.1\r\n", b"nonsense\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), 10) as caller:
            caller.sendall(request)
    assert "answer 42.0" in scrape(server)
    assert capfd.readouterr().err == ""


def test_the_port_is_free_after_the_end() -> None:
    registry = CollectorRegistry()
    with serve_registry(open_port("127.0.0.1", 0, "--metrics-port"), registry) as server:
        pass
    with open_port("127.0.0.1", server.port, "--metrics-port") as again:
        assert again.getsockname()[1] == server.port
