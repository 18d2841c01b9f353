"""CPU and memory of a process are the kernel's figures; ports are given once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.running import MODEL
from benchmarks.processes import Process, cpu_s, free_port, only_model
from common.config import load_config


def test_cpu_counts_what_a_process_computes_and_not_what_it_waits() -> None:
    before = cpu_s(os.getpid())
    began = time.process_time()
    while time.process_time() - began < 0.2:
        pass
    assert 0.15 < cpu_s(os.getpid()) - before < 2


def test_resident_memory_grows_with_what_is_touched() -> None:
    process = Process("", os.getpid(), 0.0)
    before = process.resident_mb()
    held = np.ones(8_000_000)
    assert 40 < process.resident_mb() - before < 80
    assert held[0] == 1


@pytest.mark.parametrize("before", ["", "elsewhere"])
def test_servers_hold_only_the_chosen_model_meanwhile(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "VOLCAST_SERVER__MODELS_DIR"
    monkeypatch.setenv(name, before) if before else monkeypatch.delenv(name, raising=False)
    with only_model(MODEL.parent):
        folder = Path(load_config(None).server.models_dir)
        assert [str(path.relative_to(folder)) for path in folder.glob("*/*")] == ["volatility/1"]
    assert os.environ.get(name, "") == before
    assert not folder.exists()


GIVE_200_OF_1000 = """
from benchmarks import processes
processes._choices = lambda: range(20_000, 21_000)
print(*[processes.free_port() for _ in range(200)], flush=True)
input()
"""


@pytest.mark.process
def test_no_two_processes_are_given_the_same_port() -> None:
    """Few are left to choose from, so that a port that was given twice would be seen."""
    command = [sys.executable, "-c", GIVE_200_OF_1000]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second,
    ):
        given = []
        for process in (first, second):
            assert process.stdout is not None
            given += process.stdout.readline().split()
        first.communicate("\n")
        second.communicate("\n")
    assert len(set(given)) == len(given) == 400


def test_a_port_that_is_given_is_free_and_no_outgoing_connection_takes_it() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < lowest
    for port in ports:
        with socket.create_server(("127.0.0.1", port)):
            pass
