"""CPU and memory of a process are the kernel's figures."""

from __future__ import annotations

import os
import time

import numpy as np

from benchmarks.processes import Process, cpu_s


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
