"""Clients, gateway and commands while the environment names a proxy."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from benchmarks.processes import free_port
from clients.aio import AsyncClient
from clients.sync import Client
from common.errors import UnavailableError, VolcastError
from tests.server.processes import run_to_end, running

ELSEWHERE = "192.0.2.1:50051"  # RFC 5737: an address for documentation


@pytest.fixture(
    params=["http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"]
)
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A proxy at which nobody listens, in one of the variables."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv(request.param, url)
        yield url


@pytest.mark.usefixtures("proxy")
def test_a_server_on_this_machine_is_reached_without_the_proxy(inference_server: str) -> None:
    port = inference_server.rpartition(":")[2]
    for target in (inference_server, f"localhost:{port}"):
        with Client(target, timeout_s=10) as client:
            assert client.health().ready


@pytest.mark.usefixtures("proxy")
async def test_the_same_holds_for_the_client_of_an_event_loop(inference_server: str) -> None:
    async with AsyncClient(inference_server, timeout_s=10) as client:
        assert (await client.health()).ready


@pytest.mark.parametrize("proxy", ["http_proxy", "https_proxy", "grpc_proxy"], indirect=True)
@pytest.mark.usefixtures("proxy")
def test_a_failure_through_a_proxy_names_it(request: pytest.FixtureRequest) -> None:
    variable = request.node.callspec.params["proxy"]
    with Client(ELSEWHERE, timeout_s=5) as client, pytest.raises(VolcastError) as caught:
        client.health()
    assert isinstance(caught.value, UnavailableError)
    assert "the connection goes through the proxy http://127.0.0.1:" in str(caught.value)
    assert f"({variable})" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY"], indirect=True)
@pytest.mark.usefixtures("proxy")
def test_predict_and_the_gateway_work(inference_server: str) -> None:
    done = run_to_end("predict", "--example", "--server", inference_server)
    assert done.returncode == 0, done.stderr
    with running("gateway", "--port", "0", "--server", inference_server) as gateway:
        connection = socket.create_connection(("127.0.0.1", gateway.ready["port"]), 10)
        with connection, connection.makefile("rwb") as stream:
            stream.write(b"GET /health HTTP/1.0\r\n\r\n")
            stream.flush()
            assert stream.readline().split()[1] == b"200"


@pytest.mark.process
@pytest.mark.parametrize("proxy", ["http_proxy"], indirect=True)
@pytest.mark.usefixtures("proxy")
def test_predict_says_in_one_line_which_proxy_is_in_the_way() -> None:
    done = run_to_end("predict", "--example", "--server", ELSEWHERE)
    assert done.returncode == 1
    assert done.stderr.startswith(f"volcast: inference server at {ELSEWHERE}: ")
    assert done.stderr.count("\n") == 1
    assert "(http_proxy); if it needs none, set no_proxy=192.0.2.1" in done.stderr


def test_without_a_proxy_no_message_speaks_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Client(f"127.0.0.1:{free_port()}", timeout_s=5) as client, pytest.raises(UnavailableError) as caught:
        client.health()
    assert "proxy" not in str(caught.value)
