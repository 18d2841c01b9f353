"""Logs of several processes on one stream."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

PROGRAM = """
from common.config import LogConfig
from common.log import configure_logs, get_logger
configure_logs(LogConfig(format="json"), "test")
get_logger().info("first", text="a line\\nof two")
get_logger().info("second")
"""


@pytest.mark.process
def test_an_event_and_its_line_end_are_one_write_so_that_lines_of_several_processes_do_not_mix() -> None:
    # Each write to a datagram socket is a datagram of its own.
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with reading, writing:
        subprocess.run([sys.executable, "-c", PROGRAM], stderr=writing.fileno(), check=True, timeout=60)
        reading.settimeout(10)
        for event in ("first", "second"):
            line = reading.recv(65_536)
            assert line.endswith(b"\n")
            assert json.loads(line)["event"] == event
