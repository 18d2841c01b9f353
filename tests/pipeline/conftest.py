"""What tests of files and of the stream share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many KiB; only root can mount it, so that the test is skipped for others."""
    with ExitStack() as mounted:

        def mount(size_kib: int) -> Path:
            disk = tmp_path / "small"
            disk.mkdir()
            options = ["-t", "tmpfs", "-o", f"size={size_kib}k", "volcast-test", str(disk)]
            if os.geteuid() or subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
                pytest.skip("no file system can be mounted here")
            mounted.callback(subprocess.run, ["umount", str(disk)], check=True)
            return disk

        yield mount
