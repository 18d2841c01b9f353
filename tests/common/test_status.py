"""The pipe to the supervisor: NDJSON while it lives, a stop when it is gone."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from common.status import STATUS_FD, StatusPipe


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[BinaryIO, int]]:
    read_end, write_end = os.pipe()
    monkeypatch.setenv(STATUS_FD, str(write_end))
    with os.fdopen(read_end, "rb") as reader:
        yield reader, write_end
    os.close(write_end)


def test_each_report_is_one_line_of_json(pipe: tuple[BinaryIO, int]) -> None:
    status = StatusPipe(threading.Event())
    status.report("ready", port=5)
    status.report("stats", text="two\nlines")
    reader, _ = pipe
    assert json.loads(reader.readline()) == {"event": "ready", "port": 5}
    assert json.loads(reader.readline()) == {"event": "stats", "text": "two\nlines"}


def test_a_supervisor_that_is_gone_stops_the_process(pipe: tuple[BinaryIO, int]) -> None:
    stop = threading.Event()
    status = StatusPipe(stop)
    status.report("ready")
    assert not stop.is_set()
    assert not status.orphaned
    pipe[0].close()
    status.report("stats")
    assert stop.is_set()
    assert status.orphaned
    status.report("stats")  # and nothing is written any more


def test_started_by_hand_reports_go_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STATUS_FD, raising=False)
    stop = threading.Event()
    StatusPipe(stop).report("ready")
    assert not stop.is_set()


def test_a_report_longer_than_the_pipe_arrives_whole(pipe: tuple[BinaryIO, int]) -> None:
    reader, _ = pipe
    status = StatusPipe(threading.Event())
    writing = threading.Thread(target=status.report, args=("stats",), kwargs={"text": "x" * 300_000})
    writing.start()
    line = reader.readline()
    writing.join()
    assert json.loads(line)["text"] == "x" * 300_000


def test_a_write_that_is_cut_short_goes_on(pipe: tuple[BinaryIO, int], monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr("common.status.os.write", lambda fd, data: write(fd, data[:7]))
    StatusPipe(threading.Event()).report("stats", text="cut anywhere")
    assert json.loads(pipe[0].readline())["text"] == "cut anywhere"
