"""The script that Docker asks, against real servers on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.deploy.files import load_script

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


PORT_OF = {
    "gateway": "VOLCAST_GATEWAY__PORT",
    "worker": "VOLCAST_WORKER__METRICS_PORT",
    "ingestor": "VOLCAST_INGEST__METRICS_PORT",
    "exchange": "VOLCAST_EXCHANGE__PORT",
}


class Ask(Protocol):
    def __call__(self, part: str, **variables: object) -> tuple[int, str]: ...


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs the script's main in an empty folder; gives its exit code and what it printed."""
    script = load_script("docker/healthcheck.py")
    monkeypatch.chdir(tmp_path)

    def run(part: str, **variables: object) -> tuple[int, str]:
        for key, value in variables.items():
            monkeypatch.setenv(key, str(value))
        code = script.main([part])
        return code, capsys.readouterr().out.strip()

    return run


@contextmanager
def answering(status: int, body: str) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def grpc_health(status: int) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    servicer = health.HealthServicer()
    servicer.set("", status)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def test_a_server_that_serves_is_healthy_at_its_configured_port(ask: Ask) -> None:
    with grpc_health(SERVING) as port:
        assert ask("server", VOLCAST_SERVER__PORT=port) == (0, "healthy")


def test_a_server_that_drains_is_not(ask: Ask) -> None:
    with grpc_health(NOT_SERVING) as port:
        code, said = ask("server", VOLCAST_SERVER__PORT=port)
    assert (code, said) == (1, "unhealthy: grpc.health.v1 says NOT_SERVING")


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_a_gateway_is_as_healthy_as_it_says(ask: Ask, status: int, code: int) -> None:
    with answering(status, "{}") as port:
        assert ask("gateway", VOLCAST_GATEWAY__PORT=port)[0] == code


def test_an_ingestor_is_healthy_while_it_is_connected(ask: Ask) -> None:
    with answering(200, "# TYPE volcast_ingest_connected gauge\nvolcast_ingest_connected 1.0\n") as port:
        assert ask("ingestor", VOLCAST_INGEST__METRICS_PORT=port) == (0, "healthy")
    with answering(200, "volcast_ingest_connected 0.0\n") as port:
        code, said = ask("ingestor", VOLCAST_INGEST__METRICS_PORT=port)
    assert code == 1
    assert "volcast_ingest_connected 1.0" in said


def test_a_worker_is_healthy_when_its_metrics_are_its_own(ask: Ask) -> None:
    with answering(200, "volcast_worker_features_total 0.0\n") as port:
        assert ask("worker", VOLCAST_WORKER__METRICS_PORT=port) == (0, "healthy")
    with answering(200, "something_else 1.0\n") as port:
        assert ask("worker", VOLCAST_WORKER__METRICS_PORT=port)[0] == 1


def test_an_exchange_is_healthy_when_its_port_is_open(ask: Ask) -> None:
    with answering(200, "") as port:
        assert ask("exchange", VOLCAST_EXCHANGE__PORT=port) == (0, "healthy")


@pytest.mark.parametrize("part", ["gateway", "worker", "ingestor", "exchange"])
def test_nobody_there_is_one_line(ask: Ask, part: str) -> None:
    with answering(200, "") as port:
        pass  # the port is free again
    code, said = ask(part, **{PORT_OF[part]: port})
    assert code == 1
    assert said.startswith("unhealthy: ")
    assert "\n" not in said


def test_a_configuration_that_does_not_fit_is_said(ask: Ask) -> None:
    code, said = ask("gateway", VOLCAST_GATEWAY__PORT="eight")
    assert code == 1
    assert "gateway.port" in said


def test_an_unknown_part_is_a_usage_error(ask: Ask) -> None:
    assert ask("nobody")[0] == 2


def test_a_server_behind_tls_or_tokens_is_asked_at_its_metrics(ask: Ask) -> None:
    for closed in ({"VOLCAST_SERVER__TLS_CERT": "server.crt"}, {"VOLCAST_SERVER__HEALTH_NEEDS_TOKEN": "true"}):
        with answering(200, "volcast_server_ready 1.0\n") as port:
            assert ask("server", VOLCAST_SERVER__METRICS_PORT=port, **closed)[0] == 0
        with answering(200, "volcast_server_ready 0.0\n") as port:
            assert ask("server", VOLCAST_SERVER__METRICS_PORT=port, **closed)[0] == 1


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "https_proxy"])
def test_a_proxy_is_never_asked(ask: Ask, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    with grpc_health(SERVING) as port:
        assert ask("server", VOLCAST_SERVER__PORT=port) == (0, "healthy")
    with answering(200, "{}") as port:
        assert ask("gateway", VOLCAST_GATEWAY__PORT=port)[0] == 0
