"""Small file systems in memory that can be filled. Mounting them needs root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from common.errors import UnavailableError

_FILLER = ".filler"
_CHUNK = b"\0" * 65_536


class Disk:
    """A tmpfs mounted on `folder` while the context lasts. Raises UnavailableError if it cannot be mounted."""

    def __init__(self, folder: Path, size_mb: int) -> None:
        self.folder = folder
        self._size_mb = size_mb

    def __enter__(self) -> Disk:
        self.folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size_mb}m", "volcast-faults", str(self.folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise UnavailableError(f"a small disk cannot be mounted: {error.strerror}") from None
        if done.returncode:
            raise UnavailableError(f"a small disk cannot be mounted: {done.stderr.strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)

    def fill(self) -> None:
        """Takes all space that is left."""
        descriptor = os.open(self.folder / _FILLER, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            while os.write(descriptor, _CHUNK):
                pass
        except OSError:
            pass  # full
        finally:
            os.close(descriptor)

    def free(self) -> None:
        (self.folder / _FILLER).unlink()
