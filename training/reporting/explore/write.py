"""The report on disk: index.html, exploration.json, a PNG a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from common.errors import InputError
from training.reporting.explore.page import page
from training.reporting.explore.result import Exploration

PAGE, FIGURES = "index.html", "exploration.json"


def write(folder: Path, exploration: Exploration, pictures: Mapping[str, bytes]) -> list[Path]:
    """Writes the files, each complete or not at all, and gives their paths, the page first.

    Raises InputError where the disk refuses.
    """
    contents = {
        PAGE: page(exploration, pictures).encode(),
        FIGURES: msgspec.json.format(msgspec.json.encode(exploration), indent=1) + b"\n",
        **pictures,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            unfinished = folder / f".{name}.{os.getpid()}"
            try:
                unfinished.write_bytes(content)
                unfinished.replace(folder / name)
            finally:
                unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return [folder / name for name in contents]
