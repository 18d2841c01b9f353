"""Folders that commands make for their output."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def taken_back(*folders: Path) -> Iterator[None]:
    """Where the block fails, removes those of these folders that it made, their parents too, with what is in them."""
    # os.path: where a parent may not be read, Path.exists raises.
    made = [path for folder in folders for path in (*reversed(folder.parents), folder) if not os.path.exists(path)]
    try:
        yield
    except BaseException:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        raise
