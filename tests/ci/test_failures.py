"""A test that fails is one failure: what it left open does not fail the next."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import gc, socket

def test_fails():
    cycle = [socket.socket()]
    cycle.append(cycle)
    raise AssertionError

def test_fails_too():  # pytest keeps the frames of the last failure only
    raise AssertionError

def test_next():
    gc.collect()
"""


@pytest.mark.process
def test_what_a_failed_test_left_open_does_not_fail_the_next(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    options = ["-q", "-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest", "-p", "no:cacheprovider", "-n0"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")])},
        capture_output=True,
        text=True,
        check=False,
    )
    failures = [line.split("::")[1].split()[0] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert failures == ["test_fails", "test_fails_too"], done.stdout + done.stderr
    assert "2 failed, 1 passed" in done.stdout
