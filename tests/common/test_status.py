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
    writing = threading.Thread(target=status.report, args=("summary",), kwargs={"text": "x" * 300_000})
    writing.start()
    line = reader.readline()
    writing.join()
    assert json.loads(line)["text"] == "x" * 300_000


def test_a_write_that_is_cut_short_goes_on(pipe: tuple[BinaryIO, int], monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr("common.status.os.write", lambda fd, data: write(fd, data[:7]))
    StatusPipe(threading.Event()).report("stats", text="cut anywhere")
    assert json.loads(pipe[0].readline())["text"] == "cut anywhere"


def test_stats_never_wait_for_a_supervisor_that_does_not_read(pipe: tuple[BinaryIO, int]) -> None:
    status = StatusPipe(threading.Event())
    for number in range(2000):  # 100 bytes each: more than a pipe holds
        status.report("stats", number=number, text="x" * 70)
    reader, _ = pipe
    lines = [json.loads(reader.readline()) for _ in range(100)]  # the supervisor reads again
    status.report("stats", number=-1)
    os.set_blocking(reader.fileno(), False)
    lines += [json.loads(line) for line in reader]
    assert [line["number"] for line in lines[:-1]] == list(range(len(lines) - 1))
    assert lines[-1]["number"] == -1


def test_a_summary_waits_for_a_supervisor_that_reads_late(pipe: tuple[BinaryIO, int]) -> None:
    status = StatusPipe(threading.Event())
    for _ in range(2000):
        status.report("stats", text="x" * 70)
    reporting = threading.Thread(target=status.report, args=("summary",), kwargs={"rows": 7})
    reporting.start()
    lines: list[dict[str, object]] = []
    while not lines or lines[-1]["event"] == "stats":
        lines.append(json.loads(pipe[0].readline()))
    reporting.join()
    assert lines[-1] == {"event": "summary", "rows": 7}


def test_a_summary_that_nobody_reads_is_given_up(pipe: tuple[BinaryIO, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.status.REPORT_TIMEOUT_S", 0.05)
    status = StatusPipe(threading.Event())
    status.report("summary", text="x" * 300_000)
    assert not status.orphaned
