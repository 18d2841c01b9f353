"""Buffers that are freed and allocated again in every turn cost no page faults."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from server.runtime import heap

TURNS = 200
# In a process of its own, since the heap of this one has a history. Two buffers as of a turn with 256-row calls.
SCRIPT = f"""
import ctypes, resource
from server.runtime.heap import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def turn():
    buffers = [libc.malloc(size) for size in (180_000, 250_000)]
    for buffer in buffers:
        ctypes.memset(buffer, 1, 180_000)
    for buffer in buffers:
        libc.free(buffer)
%s
turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({TURNS}):
    turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(setup: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT % setup], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
@pytest.mark.process
def test_a_turn_faults_no_page_in_again() -> None:
    assert faults("keep_freed_memory()") < TURNS / 10


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    heap.keep_freed_memory()
