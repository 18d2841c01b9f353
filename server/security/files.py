"""Detects changes of files with a single stat per file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Signature = tuple[int, int, int]


def signature(paths: Iterable[Path]) -> tuple[Signature | None, ...]:
    """Returns times, sizes and inodes; None for a missing file.

    Symbolic links are followed, since an update of a mounted secret exchanges a link.
    """
    return tuple(_signature(path) for path in paths)


def _signature(path: Path) -> Signature | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
