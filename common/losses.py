"""Items that an auxiliary store of this process could not keep, mostly because of a full disk.

The live path goes on without the store. Each store counts its losses here, and /metrics shows them.
"""

from __future__ import annotations

import errno
from collections import Counter
from threading import Lock

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_lock = Lock()
_not_stored: Counter[str] = Counter()


def count_not_stored(store: str, items: int) -> None:
    """Adds to the count of a store such as "archive". With 0 items, /metrics shows the store from now on."""
    with _lock:
        _not_stored[store] += items


def not_stored() -> dict[str, int]:
    """Items lost so far, by store."""
    with _lock:
        return dict(_not_stored)
