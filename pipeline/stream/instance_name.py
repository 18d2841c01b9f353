"""The name of a worker for Kafka, which its next start has too."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import tempfile
from pathlib import Path
from typing import IO

from common.errors import UnavailableError


class InstanceName:
    """A name of this worker that its next start has too, and no other worker of this host at the same time.

    The number is that of the first free lock file; the kernel releases the lock of a process that is killed.

    Raises UnavailableError if there is no place for the lock file.
    """

    def __init__(self, group_id: str, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir()) / f"volcast-{os.getuid()}"
        group = re.sub(r"[^A-Za-z0-9._-]", "_", group_id)
        number = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            while (lock := _locked(folder / f"worker-{group}-{number}.lock")) is None:
                number += 1
        except OSError as error:
            raise UnavailableError(
                f"worker: {error.filename or folder} cannot be locked ({error.strerror}); set worker.instance_id to a "
                "name of its own"
            ) from None
        self._lock: IO[str] = lock
        self.name = f"{socket.gethostname()}-{number}"

    def close(self) -> None:
        self._lock.close()


def _locked(path: Path) -> IO[str] | None:
    """The locked file; None if another process has locked it. Raises OSError."""
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError:
        lock.close()
        raise
    return lock
