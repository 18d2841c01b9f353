"""Signals become an event; a port that is taken is told with what changes it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest

from common.errors import UnavailableError
from common.lifecycle import require_free_port, stop_on_signals


@pytest.fixture
def _handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_the_event(number: signal.Signals) -> None:
    stop = stop_on_signals()
    assert not stop.is_set()
    signal.raise_signal(number)
    assert stop.is_set()


def test_a_taken_port_is_told_with_the_option_that_changes_it() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(UnavailableError) as caught:
            require_free_port("127.0.0.1", port, "--port or server.port")
    assert str(caught.value) == (
        f"port {port} on 127.0.0.1: Address already in use; choose another with --port or server.port"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_free_port_and_port_0_pass(host: str) -> None:
    port = require_free_port(host, 0, "--port")
    assert port > 0
    assert require_free_port(host, port, "--port") == port


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "a" * 64])
def test_a_host_that_is_not_ours_is_told_with_the_key_that_sets_it(host: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        require_free_port(host, 0, "--metrics-port or server.metrics_port")
    assert str(caught.value).startswith(f"host {host}: ")
    assert str(caught.value).endswith("; set an address of this machine with server.metrics_host")
