"""Upkeep of an archive beside the live path: fsync, compression of rolled files, retention.

A writer locks the file that it writes. Upkeep leaves locked files alone, so several ingestors may share a folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from common.log import get_logger
from pipeline.archive.entries import HEADER_START
from pipeline.archive.paths import PLAIN_SUFFIX, archive_files

COMPRESSION_LEVEL = 6  # the recordings of 2025: 125 MB/s, 5.0 % of the size; level 9: 34 MB/s, 4.4 %

_UNFINISHED = ".unfinished"
# Only files that a writer named are removed: people may keep their own recordings in the folder.
# A product may end in "_" and its day of delivery: BTCUSDT_240927.
_WRITTEN_NAME = re.compile(r"[A-Za-z0-9-]+(_[A-Z0-9]{1,20})?_\d{8}T\d{6}Z([-_]\d+)?\.ndjson(\.gz)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ArchivePolicy:
    """When files roll, when they reach the disk, how long they stay."""

    roll_bytes: int = 64 * 1024 * 1024
    roll_s: float = 3600.0  # at multiples of this time since 1970: 3600 is each full hour
    compress: bool = True  # rolled files become .ndjson.gz
    # never: the operating system decides. roll: a rolled file. flush: also the current file at each flush.
    fsync: Literal["never", "roll", "flush"] = "roll"
    retention_s: float = 0.0  # rolled files that were last written longer ago are removed; 0: none
    max_bytes: int = 0  # the oldest rolled files beyond this sum are removed; 0: none


class Upkeep:
    """A thread for the work on a folder that must not block the live path. `close` finishes pending work."""

    def __init__(self, directory: Path, policy: ArchivePolicy, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._policy = policy
        self._clock = clock
        self._failing = False
        self._tasks: queue.SimpleQueue[tuple[int | None, bool] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="archive-upkeep", daemon=True)
        self._thread.start()

    def tidy(self) -> None:
        """Compresses files that a killed writer left, and applies the retention."""
        self._tasks.put((None, True))

    def sync(self, descriptor: int) -> None:
        """Brings the current file to the disk, if the policy asks for it."""
        if self._policy.fsync == "flush":
            self._tasks.put((os.dup(descriptor), False))

    def rolled(self, descriptor: int, *, last: bool = False) -> None:
        """Takes over the descriptor of a file that is complete. The last file of a writer stays plain."""
        self._tasks.put((descriptor, not last))

    def close(self) -> None:
        self._tasks.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            descriptor, tidy = task
            try:
                self._settle(descriptor)
                if tidy:
                    self._tidy()
                self._failing = False
            except OSError as error:
                if not self._failing:
                    get_logger().warning(
                        "archive upkeep failed", directory=str(self._directory), error=error.strerror or str(error)
                    )
                self._failing = True

    def _settle(self, descriptor: int | None) -> None:
        if descriptor is None:
            return
        try:
            if self._policy.fsync != "never":
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _tidy(self) -> None:
        try:
            if self._policy.compress:
                for path in archive_files(self._directory):
                    if path.name.endswith(PLAIN_SUFFIX):
                        compress(path, sync=self._policy.fsync != "never")
        finally:  # on a full disk, retention makes space
            self._apply_retention()

    def _apply_retention(self) -> None:
        policy = self._policy
        if not policy.retention_s and not policy.max_bytes:
            return
        files = [path for path in archive_files(self._directory) if _WRITTEN_NAME.fullmatch(path.name)]
        sizes = {path: path.stat() for path in files}
        total = sum(status.st_size for status in sizes.values())
        for path, status in sizes.items():
            too_old = policy.retention_s and self._clock() - status.st_mtime > policy.retention_s
            too_much = policy.max_bytes and total > policy.max_bytes
            if not too_old and not too_much:
                continue
            with contextlib.suppress(BlockingIOError), _locked(path):
                path.unlink()
                total -= status.st_size
                get_logger().info("archive file removed", file=str(path), reason="age" if too_old else "size")


def compress(path: Path, *, sync: bool) -> bool:
    """Replaces a plain file that a writer completed by its compressed form; False if no writer completed the file.

    The compressed file has its name only when it is complete. Raises OSError if the disk refuses.
    """
    target = path.with_name(path.name + ".gz")
    unfinished = path.with_name(f".{target.name}{_UNFINISHED}")
    try:
        with _locked(path) as source:
            if source.read(len(HEADER_START)) != HEADER_START:
                return False
            source.seek(0)
            if not target.exists():
                _compress_into(unfinished, source, sync=sync)
                status = os.fstat(source.fileno())
                os.utime(unfinished, ns=(status.st_atime_ns, status.st_mtime_ns))
                os.replace(unfinished, target)
            path.unlink()
    except BlockingIOError:
        return False  # another process writes it
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    return True


def _compress_into(path: Path, source: BinaryIO, *, sync: bool) -> None:
    with path.open("wb") as file:
        with gzip.GzipFile("", "wb", COMPRESSION_LEVEL, file, mtime=0) as zipped:
            shutil.copyfileobj(source, zipped, 256 * 1024)
        file.flush()
        if sync:
            os.fsync(file.fileno())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """The file, locked. Raises BlockingIOError if a writer has it."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file
