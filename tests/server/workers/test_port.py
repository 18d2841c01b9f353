"""The port that workers share, and nobody else."""

from __future__ import annotations

import socket

import pytest

from common.errors import UnavailableError
from server.workers.port import SharedPort

HOST = "127.0.0.1"


def listener(port: int, *, shared: bool) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    one.bind((HOST, port))
    one.listen()
    return one


def test_a_free_port_is_taken_for_zero_and_workers_listen_on_it_side_by_side() -> None:
    with SharedPort(HOST, 0, "--port") as shared:
        assert shared.port > 0
        with listener(shared.port, shared=True), listener(shared.port, shared=True):
            pass


def test_no_call_waits_where_nobody_listens() -> None:
    with SharedPort(HOST, 0, "--port") as shared, socket.socket() as caller:
        assert caller.connect_ex((HOST, shared.port)) != 0


def test_the_same_port_can_be_had_again_once_it_was_closed() -> None:
    with SharedPort(HOST, 0, "--port") as first:
        pass
    with SharedPort(HOST, first.port, "--port") as second:
        assert second.port == first.port


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_on_which_somebody_listens_is_refused_even_where_he_would_share_it(shared: bool) -> None:
    with listener(0, shared=shared) as other:
        port = other.getsockname()[1]
        with pytest.raises(UnavailableError) as raised:
            SharedPort(HOST, port, "--port or server.port")
    assert str(raised.value) == (
        f"port {port} on {HOST}: Address already in use; choose another with --port or server.port"
    )


def test_of_two_that_start_before_either_has_a_worker_that_listens_the_second_is_refused() -> None:
    with SharedPort(HOST, 0, "--port") as first, pytest.raises(UnavailableError, match="Address already in use"):
        SharedPort(HOST, first.port, "--port")
