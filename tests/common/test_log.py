"""Logs: whole lines, and no error and no wait for the program that writes them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.config import LogConfig
from common.log import configure_logs, get_logger
from common.streams import lost_lines
from tests.processes import ROOT

PROGRAM = """
import sys
from common.config import LogConfig
from common.log import configure_logs, get_logger
from common.streams import flush_standard_error, lost_lines, protect_standard_streams
protect_standard_streams()
configure_logs(LogConfig(format="json"), "test")
log = get_logger()
"""
TWO_EVENTS = 'log.info("first", text="a line\\nof two")\nlog.info("second")\n'
BLOCKED_AFTER = 10_000  # lines of some 100 bytes: more than any pipe holds


def run(body: str, stderr: int, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", PROGRAM + body]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, timeout=60, check=False, **options)


@pytest.mark.process
def test_an_event_and_its_line_end_are_one_write_so_that_lines_of_several_processes_do_not_mix() -> None:
    # Each write to a datagram socket is a datagram of its own.
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with reading, writing:
        assert run(TWO_EVENTS, writing.fileno()).returncode == 0
        reading.settimeout(10)
        for event in ("first", "second"):
            line = reading.recv(65_536)
            assert line.endswith(b"\n")
            assert json.loads(line)["event"] == event


@pytest.mark.process
def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    with Path("/dev/full").open("wb") as full:
        body = "for _ in range(7): log.info('x')\nflush_standard_error(10)\nprint(lost_lines())"
        done = run(body, full.fileno())
    assert (done.returncode, done.stdout) == (0, b"7\n")


@pytest.mark.process
def test_a_pipe_without_a_reader_costs_lines_and_nothing_else() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = run("log.info('x')\nprint('still here')", write_end)
    os.close(write_end)
    assert (done.returncode, done.stdout) == (0, b"still here\n")


@pytest.mark.process
def test_a_reader_that_stops_reading_does_not_hold_the_program_up() -> None:
    read_end, write_end = os.pipe()
    body = f"for n in range({BLOCKED_AFTER}): log.info('event', number=n, pad='x' * 100)\nprint(lost_lines() > 0)"
    done = run(body, write_end)
    os.close(write_end)
    assert (done.returncode, done.stdout) == (0, b"True\n")
    with os.fdopen(read_end, "rb") as reader:
        assert all(json.loads(line)["event"] == "event" for line in reader if line.endswith(b"\n"))


@pytest.mark.process
def test_a_program_without_standard_error_runs() -> None:
    command = ["bash", "-c", '"$@" 2>&-', "bash", sys.executable, "-c", PROGRAM + "log.info('x')\nprint('ok')"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"ok\n")


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("value", [Unshowable(), "\udc80", {1: {2: Unshowable()}}, b"\xff"])
def test_a_value_that_cannot_be_shown_still_gives_a_line(
    form: Any, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(LogConfig(format=form), "test")
    before = lost_lines()
    get_logger().error("swap_failed", value=value)
    lines = capsys.readouterr().err.splitlines()
    assert lost_lines() > before or any("swap_failed" in line for line in lines)


def test_a_value_whose_repr_fails_is_replaced_by_the_name_of_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogConfig(format="json"), "test")
    get_logger().error("swap_failed", value=Unshowable())
    event = json.loads(capsys.readouterr().err)
    assert event["event"] == "swap_failed"
    assert event.get("log_error", "RuntimeError") == "RuntimeError"


def test_a_closed_stream_costs_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stream = (tmp_path / "log").open("w")
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs(LogConfig(format="json"), "test")
    stream.close()
    before = lost_lines()
    get_logger().info("x")
    assert lost_lines() == before + 1


@pytest.mark.process
def test_warnings_of_libraries_are_events_of_the_log() -> None:
    body = (
        "import logging\nlogging.getLogger('asyncio').error('%s lost', 'a task')\nlogging.getLogger('x').info('quiet')"
    )
    done = run(body, subprocess.STDOUT)
    event = json.loads(done.stdout)
    assert (event["event"], event["logger"], event["text"]) == ("library", "asyncio", "a task lost")


@pytest.mark.process
def test_threads_that_log_at_once_lose_no_line() -> None:
    body = """
import threading
def work(): [log.info('x') for _ in range(200)]
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
"""
    done = run(body, subprocess.STDOUT)
    assert len(done.stdout.splitlines()) == 1600
    assert all(json.loads(line)["event"] == "x" for line in done.stdout.splitlines())
