"""A broker's process ends with its parent, and is killed if it ignores its signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.broker.child import ChildProcess
from tests.processes import await_true

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.process


class Shell(ChildProcess):
    """A shell command as a child process."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command = command
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the process

    def start(self) -> None:
        self._spawn(["sh", "-c", self._command], self.log, signal.SIGTERM)

    def stop(self) -> None:
        self._end(signal.SIGTERM, 0.2)
        self.log.close()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_it_ends_with_its_context() -> None:
    with Shell("exec sleep 60") as shell:
        assert shell.alive
        pid = shell.pid
    assert not shell.alive
    assert pid is not None
    assert gone(pid)


def test_a_process_that_ignores_its_signal_is_killed() -> None:
    with Shell("trap '' TERM; echo ready; while :; do sleep 1; done") as shell:
        await_true(lambda: os.fstat(shell.log.fileno()).st_size > 0, 30, "the trap")
        pid = shell.pid
    assert pid is not None
    assert gone(pid)


def test_to_end_what_never_started_does_nothing() -> None:
    shell = Shell("true")
    shell.stop()
    assert not shell.alive
    assert shell.pid is None


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux")
def test_it_ends_with_a_parent_that_was_killed() -> None:
    script = (
        "import sys, time; from tests.pipeline.broker.test_child import Shell; shell = Shell('exec sleep 60'); "
        "shell.start(); print(shell.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    await_true(lambda: gone(pid), 30, "the end of the child")
