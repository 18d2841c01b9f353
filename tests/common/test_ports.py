"""A port is bound once and kept: of two processes that want it at the same moment exactly one gets it."""

from __future__ import annotations

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from common.errors import UnavailableError
from common.ports import BoundPort, open_port
from tests.processes import ROOT

HOST = "127.0.0.1"
OPTION = "--port or server.port"
TAKEN = r"^port \d+ on 127\.0\.0\.1: Address already in use; choose another with --port or server\.port$"


def listener(port: int, *, shared: bool) -> socket.socket:
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    other.bind((HOST, port))
    other.listen()
    return other


def test_an_open_port_listens() -> None:
    with open_port(HOST, 0, OPTION) as listening, socket.socket() as caller:
        assert caller.connect_ex(listening.getsockname()) == 0


def test_a_taken_port_is_one_line_with_the_option_that_changes_it() -> None:
    with listener(0, shared=False) as other:
        port = other.getsockname()[1]
        for take in (open_port, BoundPort):
            with pytest.raises(UnavailableError, match=TAKEN):
                take(HOST, port, OPTION)


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "a" * 64])
def test_a_host_that_is_not_ours_is_one_line_with_the_key_that_sets_it(host: str) -> None:
    for take in (open_port, BoundPort):
        with pytest.raises(UnavailableError) as caught:
            take(host, 0, "--metrics-port or server.metrics_port")
        assert str(caught.value).startswith(f"host {host}: ")
        assert str(caught.value).endswith("; set an address of this machine with server.metrics_host")


@pytest.mark.parametrize("host", [HOST, "localhost", "::1"])
def test_a_bound_port_refuses_callers_until_it_listens(host: str) -> None:
    with BoundPort(host, 0, OPTION) as bound:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as caller:
            assert caller.connect_ex((host, bound.port)) != 0
        with bound.listen(), socket.socket(family) as caller:
            assert caller.connect_ex((host, bound.port)) == 0


@pytest.mark.parametrize("shared", [False, True])
def test_of_two_that_have_not_listened_yet_the_second_is_refused(shared: bool) -> None:
    with BoundPort(HOST, 0, OPTION, shared=shared) as first:
        for other_shares in (False, True):
            with pytest.raises(UnavailableError, match=TAKEN):
                BoundPort(HOST, first.port, OPTION, shared=other_shares)
        first.listen().close()


def test_the_first_that_listens_wins_without_a_claim() -> None:
    first = BoundPort(HOST, 0, OPTION, claimed=False)
    second = BoundPort(HOST, first.port, OPTION, claimed=False)
    with first, second, second.listen(), pytest.raises(UnavailableError, match=TAKEN):
        first.listen()


def test_a_port_can_be_had_again_once_it_was_closed() -> None:
    with BoundPort(HOST, 0, OPTION) as first:
        first.listen().close()
    with BoundPort(HOST, first.port, OPTION) as second:
        assert second.port == first.port
        second.listen().close()


def test_a_port_that_was_handed_over_can_be_bound_by_others_and_stays_claimed() -> None:
    with BoundPort(HOST, 0, OPTION) as first:
        first.hand_over()
        with pytest.raises(UnavailableError, match=TAKEN):
            BoundPort(HOST, first.port, OPTION)
        with listener(first.port, shared=False):
            pass


def test_workers_listen_side_by_side_on_a_shared_port() -> None:
    with BoundPort(HOST, 0, OPTION, shared=True) as supervisor:
        workers = [BoundPort(HOST, supervisor.port, OPTION, shared=True, claimed=False) for _ in range(3)]
        listening = [worker.listen() for worker in workers]
        for each in listening:
            each.close()


@pytest.mark.parametrize("shared", [False, True])
def test_a_shared_port_is_refused_where_an_unrelated_server_listens(shared: bool) -> None:
    with listener(0, shared=shared) as other, pytest.raises(UnavailableError, match=TAKEN):
        BoundPort(HOST, other.getsockname()[1], OPTION, shared=True)


@pytest.mark.parametrize("shared", [False, True])
def test_of_many_that_start_at_the_same_moment_exactly_one_wins(shared: bool) -> None:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    count = 16
    barrier = Barrier(count)

    def take(_: int) -> tuple[BoundPort, socket.socket] | UnavailableError:
        barrier.wait()
        try:
            bound = BoundPort(HOST, port, OPTION, shared=shared)
            return bound, bound.listen()
        except UnavailableError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        for _ in range(20):
            outcomes = list(pool.map(take, range(count)))
            ((bound, listening),) = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
            bound.close()
            listening.close()


@pytest.mark.process
def test_a_claim_ends_with_its_process() -> None:
    script = f"""
import os, sys
from common.ports import BoundPort
print(BoundPort("{HOST}", 0, "--port").port, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=False)
    with BoundPort(HOST, int(done.stdout), OPTION) as bound, bound.listen():
        pass
