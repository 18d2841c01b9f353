"""How processes of a run are ended: those at work are waited for, those that hang are killed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.run.processes import Process, ProcessGroup
from common.progress import Progress, demand_ns

pytestmark = pytest.mark.process

# Each prints "up" once its handler is set up.
AT_WORK = """
import signal, sys, time
def end(*_):
    until = time.process_time() + 1.5
    while time.process_time() < until: pass
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
while True: time.sleep(0.01)
"""
HANGS = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: None)
print("up", flush=True)
while True: time.sleep(0.05)
"""


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessGroup]:
    monkeypatch.setattr("cli.run.processes.MAX_IDLE_S", 1.0)
    with ProcessGroup(tmp_path, None) as group:
        yield group


def started(tmp_path: Path, script: str) -> Process:
    popen = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert popen.stdout is not None
    assert popen.stdout.readline() == b"up\n"
    popen.stdout.close()
    return Process("worker", [], tmp_path / "worker.log", popen=popen)


def test_a_process_at_work_is_waited_for(group: ProcessGroup, tmp_path: Path) -> None:
    process = started(tmp_path, AT_WORK)
    group.stop(process)
    assert process.popen is not None
    assert process.popen.returncode == 0


def test_a_process_that_does_nothing_is_killed(group: ProcessGroup, tmp_path: Path) -> None:
    process = started(tmp_path, HANGS)
    began_s = time.monotonic()
    group.stop(process)
    assert process.failure_line() == "was killed by SIGKILL"
    assert time.monotonic() - began_s >= 1.0


def test_a_user_in_a_hurry_waits_for_none(tmp_path: Path) -> None:
    hurry = threading.Event()
    hurry.set()
    with ProcessGroup(tmp_path, None, hurry) as group:
        process = started(tmp_path, AT_WORK)
        group.stop(process)
    assert process.failure_line() == "was killed by SIGKILL"


def test_the_user_reads_which_process_is_still_ending(
    group: ProcessGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.run.processes.WAITING_EVERY_S", 0.1)
    lines: list[str] = []
    group.tell = lines.append
    group.stop(started(tmp_path, AT_WORK))
    assert lines
    assert set(lines) == {"waiting for worker to end"}


def test_a_report_is_progress() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        progress = Progress(process.pid, 100.0)
        assert progress.idle_s(1, 105.0) < 105.0
        assert progress.idle_s(2, 130.0) == 0.0
    finally:
        process.kill()
        process.wait()


def test_a_process_that_wants_the_processor_is_at_work_and_one_that_sleeps_is_not() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    sleeping = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        time.sleep(1)  # both have started
        before = demand_ns(busy.pid), demand_ns(sleeping.pid)
        time.sleep(1)
        assert demand_ns(busy.pid) - before[0] > 0.3e9
        assert demand_ns(sleeping.pid) - before[1] < 0.05e9
    finally:
        for process in (busy, sleeping):
            process.kill()
            process.wait()


def test_a_process_that_has_gone_wants_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert demand_ns(process.pid) == 0
