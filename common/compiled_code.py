"""The folder in which numba keeps compiled loops, so that the next command does not compile them again (3 to 9 s)."""

from __future__ import annotations

import os
import stat
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def keep_compiled_code(environ: MutableMapping[str, str]) -> None:
    """Sets NUMBA_CACHE_DIR to a folder in the user's cache, unless it is set; if it is empty, numba keeps nothing.

    A person who can write to the folder can run code as this user. If the folder belongs to another user or is open to
    others, the variable stays unset, and numba keeps nothing.
    """
    if VARIABLE not in environ:
        base = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache")
        folder = Path(base) / "volcast" / "numba"
        if folder.is_absolute() and _is_private(folder):
            environ[VARIABLE] = str(folder)


def _is_private(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    others = stat.S_IMODE(status.st_mode) & 0o077
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not others
