"""Whether files have changed, at the price of one stat each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Signature = tuple[int, int, int]


def signature(paths: Iterable[Path]) -> tuple[Signature | None, ...]:
    """What changes when a file does; a link is followed, since mounted secrets are swapped by one."""
    return tuple(_signature(path) for path in paths)


def _signature(path: Path) -> Signature | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
