"""No proxy for this machine; a proxy that is in the way is named."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError

import pytest

from common.proxies import (
    bypass_proxies_on_this_machine,
    channel_options,
    explain,
    is_local,
    open_url,
    proxy_for,
    reached_through_proxy,
)

PROXY = "http://proxy.example:3128"
VARIABLES = [f"{name}{suffix}" for name in ("http", "https", "grpc", "all", "no", "no_grpc") for suffix in ("_proxy",)]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1:50051", "127.8.8.8:1", "localhost:50051", "LOCALHOST:1", "api.localhost:1", "[::1]:50051", "0.0.0.0:1",
     "[::]:1", "[::ffff:127.0.0.1]:1", "dns:///localhost:1", "dns:127.0.0.1:1", "ipv4:127.0.0.1:1",
     "ipv4:127.0.0.1:1,127.0.0.2:1", "ipv6:[::1]:1", "ipv6:%5B::1%5D:1", "unix:/run/volcast.sock", "unix:relative.sock",
     "unix:///run/volcast.sock", "unix-abstract:volcast", "vsock:2:1", "localhost", "ws://127.0.0.1:8765",
     "http://user@localhost:9101/metrics"],
)  # fmt: skip
def test_loopback_and_unix_sockets_are_local(target: str) -> None:
    assert is_local(target)


@pytest.mark.parametrize(
    "target",
    ["inference.example:50051", "10.0.0.7:1", "128.0.0.1:1", "[fe80::1]:1", "localhost.example:1", "dns:///example:1",
     "dns://127.0.0.1/example:1", "ipv4:127.0.0.1:1,10.0.0.7:1", "notlocalhost:1",
     "wss://advanced-trade-ws.coinbase.com", ""],
)  # fmt: skip
def test_other_machines_are_not(target: str) -> None:
    assert not is_local(target)


def test_a_channel_to_this_machine_uses_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    assert dict(channel_options("127.0.0.1:50051"))["grpc.enable_http_proxy"] == 0
    assert dict(channel_options("inference.example:50051"))["grpc.enable_http_proxy"] == 1


@pytest.mark.parametrize("name", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_the_proxy_that_grpc_uses_is_known_by_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for("inference.example:50051") is None
    monkeypatch.setenv(name, PROXY)
    assert proxy_for("inference.example:50051") == (name, PROXY)
    assert proxy_for("localhost:50051") is None


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY", "no_grpc_proxy"])
@pytest.mark.parametrize(
    "value", ["*", "example", ".example", "a,inference.example", "inference.example:50051", " example "]
)
def test_no_proxy_is_respected(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", PROXY)
    monkeypatch.setenv(variable, value)
    assert proxy_for("inference.example:50051") is None
    assert dict(channel_options("dns:///inference.example:50051"))["grpc.enable_http_proxy"] == 0


def test_no_proxy_takes_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", PROXY)
    monkeypatch.setenv("no_proxy", "10.0.0.0/8, fd00::/8")
    assert proxy_for("10.1.2.3:50051") is None
    assert proxy_for("[fd00::7]:50051") is None
    assert proxy_for("11.1.2.3:50051") == ("https_proxy", PROXY)


def test_a_failure_names_the_proxy_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert explain("inference.example:1") == ""
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy.example:3128")
    assert explain("127.0.0.1:1") == ""
    assert explain("inference.example:1") == (
        "; the connection goes through the proxy http://proxy.example:3128 (https_proxy); "
        "if it needs none, set no_proxy=inference.example"
    )


@contextmanager
def answering(status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"metrics")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_url_on_this_machine_is_opened_without_a_proxy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv(name, f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with answering() as url, open_url(url, 10) as answer:
            assert answer.read() == b"metrics"


def test_the_connection_of_an_error_status_is_closed() -> None:
    """The error is the response. Its callers read only its status."""
    with answering(status=503) as url, pytest.raises(HTTPError, match="HTTP Error 503") as raised:
        open_url(url, 10)
    assert raised.value.fp is not None
    assert raised.value.fp.closed


def test_a_server_behind_a_proxy_cannot_be_looked_at_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not reached_through_proxy("http://mlflow.example:5000")
    monkeypatch.setenv("http_proxy", PROXY)
    assert reached_through_proxy("http://mlflow.example:5000")
    assert not reached_through_proxy("https://mlflow.example")
    assert not reached_through_proxy("http://127.0.0.1:5000")
    monkeypatch.setenv("no_proxy", "mlflow.example")
    assert not reached_through_proxy("http://mlflow.example:5000")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"http_proxy": PROXY}, {"no_proxy": "localhost,127.0.0.1,::1"}),
        ({"HTTPS_PROXY": PROXY}, {"no_proxy": "localhost,127.0.0.1,::1"}),
        ({"http_proxy": PROXY, "no_proxy": "corp"}, {"no_proxy": "corp,localhost,127.0.0.1,::1"}),
        ({"http_proxy": PROXY, "NO_PROXY": "corp"}, {"no_proxy": "corp,localhost,127.0.0.1,::1"}),
        ({"http_proxy": PROXY, "no_proxy": "*"}, {"no_proxy": "*"}),
        ({"http_proxy": PROXY, "no_proxy": "localhost"}, {"no_proxy": "localhost,127.0.0.1,::1"}),
    ],
)
def test_libraries_learn_from_the_environment_that_this_machine_needs_no_proxy(
    before: dict[str, str], after: dict[str, str]
) -> None:
    environ = dict(before)
    bypass_proxies_on_this_machine(environ)
    expected = before | after
    if "no_proxy" in after and after["no_proxy"] != "*":
        expected["NO_PROXY"] = after["no_proxy"]
    assert environ == expected
