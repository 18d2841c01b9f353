"""Keeps freed memory in the process, so that the next batch need not fault it in again.

A read and the matrix of a batch of 256-row calls take some 180 kB each. If the last of such buffers lies at the end of
the heap, glibc returns it to the kernel with `free` and the next turn of the event loop faults every page in again:
four to five faults a call, a fifth of the server's CPU. Whether it lies there depends on the order of frees.
"""

from __future__ import annotations

import ctypes

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
MAX_IDLE_HEAP_BYTES = 32 * 1024 * 1024  # at the end of the heap; more is returned to the kernel
MIN_MAPPED_BYTES = 8 * 1024 * 1024  # an allocation of so many bytes is mapped, and unmapped with its `free`


def keep_freed_memory() -> None:
    """Does nothing if the C library has no `mallopt` (musl, macOS)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, MAX_IDLE_HEAP_BYTES)
        mallopt(_M_MMAP_THRESHOLD, MIN_MAPPED_BYTES)
