"""The archive's writer: complete lines at once, rolling, full disks."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from common.errors import InputError
from common.losses import not_stored
from pipeline.archive import ArchivePolicy, ArchiveWriter, expand_paths, read_archive
from pipeline.records import Gap, Tick
from tests.pipeline.feed.messages import TIME_NS, message

HOUR_NS = 3_600_000_000_000
SECOND_NS = 1_000_000_000


def at(second: int) -> str:
    return f"2026-04-05T22:{second // 60:02d}:{second % 60:02d}Z"


def kinds(*paths: Path) -> list[str]:
    return [str(each.sequence_num) if isinstance(each, Tick) else each.reason for each in read_archive(paths)]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def events() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as logs:
        yield logs


def test_a_message_is_in_the_file_before_write_returns(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path)
    for number in range(3):
        writer.write(message(number), TIME_NS)
        (path,) = tmp_path.iterdir()
        header, *lines = path.read_bytes().splitlines(keepends=True)
        assert len(lines) == number + 1
        assert lines[-1].endswith(b"}\n")
    writer.close()
    assert json.loads(header)["venue"] == "coinbase"


def test_the_header_names_format_venue_products_and_connection(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path, ["BTCUSDT"], venue="binance")
    writer.write(message(0), TIME_NS)
    writer.close()
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_bytes().splitlines()[0]) == {
        "volcast_archive": 1,
        "venue": "binance",
        "products": ["BTCUSDT"],
        "connection": TIME_NS,
        "lost_messages": 0,
        "max_future_s": 0.0,
    }


@pytest.mark.process
def test_a_killed_writer_leaves_every_message_that_it_took(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from pipeline.archive import ArchiveWriter\n"
        "from tests.pipeline.feed.messages import message\n"
        "writer = ArchiveWriter(Path(sys.argv[1]))\n"
        f"for number in range(1234): writer.write(message(number), {TIME_NS})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=60)
    assert kinds(tmp_path) == [str(number) for number in range(1234)]


def test_files_roll_with_the_hour_and_the_connection_goes_on(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path)
    for number in range(4):
        writer.write(message(number, timestamp=at(number)), TIME_NS + number * HOUR_NS // 2)
    writer.close()
    assert names(tmp_path) == [
        "feed_20260405T223513Z.ndjson.gz",
        "feed_20260405T230513Z.ndjson.gz",
        "feed_20260406T000513Z.ndjson",
    ]
    assert kinds(tmp_path) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(("roll_s", "files"), [(59.0, 2), (60.0, 1)])
def test_files_roll_at_multiples_of_the_given_time(tmp_path: Path, roll_s: float, files: int) -> None:
    writer = ArchiveWriter(tmp_path, policy=ArchivePolicy(roll_s=roll_s))
    for number, second in enumerate((0, 59)):
        writer.write(message(number), second * SECOND_NS)
    writer.close()
    assert len(names(tmp_path)) == files


@pytest.mark.parametrize(("spare", "rolled"), [(0, True), (1, False)])
def test_a_file_rolls_once_it_has_the_given_size(tmp_path: Path, spare: int, rolled: bool) -> None:
    probe = ArchiveWriter(tmp_path / "probe")
    probe.write(message(0), TIME_NS)
    probe.close()
    (file,) = (tmp_path / "probe").iterdir()
    writer = ArchiveWriter(tmp_path / "raw", policy=ArchivePolicy(roll_bytes=file.stat().st_size + spare))
    for number in range(2):
        writer.write(message(number), TIME_NS)
    writer.close()
    assert names(tmp_path / "raw") == (
        ["feed_20260405T223513Z.ndjson.gz", "feed_20260405T223513Z_002.ndjson"]
        if rolled
        else ["feed_20260405T223513Z.ndjson"]
    )
    assert kinds(tmp_path / "raw") == ["0", "1"]


def test_without_compression_rolled_files_stay_plain(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path, policy=ArchivePolicy(roll_bytes=1, compress=False))
    for number in range(3):
        writer.write(message(number), TIME_NS + number * SECOND_NS)
    writer.close()
    assert [name.endswith(".ndjson") for name in names(tmp_path)] == [True] * 3


def test_a_new_connection_is_a_gap_in_the_same_file(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path)
    for connection in range(2):
        writer.begin_connection()
        for number in range(2):
            nanoseconds = TIME_NS + connection
            writer.write(message(number + connection, timestamp=at(connection)), nanoseconds)
    writer.close()
    assert names(tmp_path) == ["feed_20260405T223513Z.ndjson"]
    assert kinds(tmp_path) == ["0", "1", "reconnect", "1", "2"]


def test_many_connections_without_a_message_leave_no_file(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path)
    for _ in range(100):
        writer.begin_connection()
    writer.close()
    assert names(tmp_path) == []


def test_lost_messages_of_a_connection_that_rolls_are_a_sequence_gap_and_no_reconnect(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path)
    writer.write(message(0, timestamp=at(0)), TIME_NS)
    writer.write(message(5, timestamp=at(1)), TIME_NS + HOUR_NS)
    writer.close()
    assert kinds(tmp_path) == ["0", "sequence", "5"]


class Disk:
    """A disk whose write calls fail from now on, or take a part of the line only."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._write = os.write
        self.error: OSError | None = None
        self.room: int | None = None
        self.calls = 0
        monkeypatch.setattr("pipeline.archive.writer.os.write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        self.calls += 1
        if self.error is not None:
            raise self.error
        if self.room is not None:
            return self._write(descriptor, bytes(data)[: self.room])
        return self._write(descriptor, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_a_batch_is_a_single_write_with_the_lines_of_its_messages(tmp_path: Path, disk: Disk) -> None:
    batch = [(message(number), TIME_NS + number) for number in range(1, 5)]
    for directory, together in ((tmp_path / "a", True), (tmp_path / "b", False)):
        writer = ArchiveWriter(directory)
        writer.write(message(0), TIME_NS)
        calls = disk.calls
        if together:
            writer.write_batch(batch)
            assert disk.calls == calls + 1
        else:
            for each in batch:
                writer.write(*each)
        writer.close()
    files = [next((tmp_path / name).iterdir()).read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    assert kinds(tmp_path / "a") == ["0", "1", "2", "3", "4"]


def test_a_first_batch_and_a_batch_of_a_new_file_have_their_headers(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path)
    for hour in range(2):
        writer.write_batch([(message(2 * hour + number), TIME_NS + hour * HOUR_NS) for number in range(2)])
    writer.close()
    assert len(names(tmp_path)) == 2
    assert kinds(tmp_path) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("room", [0, 1, 700, 1000])
def test_a_batch_for_which_the_disk_has_no_room_is_counted_and_leaves_whole_lines(
    tmp_path: Path, disk: Disk, clock: Clock, room: int
) -> None:
    writer = ArchiveWriter(tmp_path, clock=clock)
    writer.write(message(0, timestamp=at(0)), TIME_NS)
    disk.room = room
    writer.write_batch([(message(number, timestamp=at(number)), TIME_NS) for number in range(1, 4)])
    disk.room = None
    stored = 3 - writer.lost_messages
    clock.now_s += 1.0
    writer.write_batch([(message(number, timestamp=at(number)), TIME_NS) for number in range(4, 6)])
    writer.close()
    kept = [str(number) for number in range(stored + 1)]
    assert kinds(tmp_path) == [*kept, *(["reconnect"] if stored < 3 else []), "4", "5"]


def test_a_full_disk_stops_nothing_is_logged_once_and_counted_and_recovers(
    tmp_path: Path, disk: Disk, clock: Clock, events: list[Any]
) -> None:
    before = not_stored().get("archive", 0)
    writer = ArchiveWriter(tmp_path, clock=clock)
    writer.write(message(0, timestamp=at(0)), TIME_NS)
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    for number in range(1, 8):
        clock.now_s += 0.5
        writer.write(message(number, timestamp=at(number)), TIME_NS)
    disk.error = None
    clock.now_s += 1.0
    writer.write(message(8, timestamp=at(8)), TIME_NS)
    writer.close()
    assert [(event["event"], event["log_level"]) for event in events] == [
        ("archive cannot be written, ingest goes on without it", "warning"),
        ("archive is written again", "info"),
    ]
    assert writer.lost_messages == 7
    assert not_stored()["archive"] - before == 7
    assert names(tmp_path) == ["feed_20260405T223513Z.ndjson"]
    assert kinds(tmp_path) == ["0", "reconnect", "8"]
    lines = (tmp_path / "feed_20260405T223513Z.ndjson").read_bytes().splitlines()
    assert [json.loads(line).get("lost_messages") for line in lines] == [0, None, 7, None]


def test_after_a_failure_the_disk_is_left_alone_for_a_second(tmp_path: Path, disk: Disk, clock: Clock) -> None:
    writer = ArchiveWriter(tmp_path, clock=clock)
    disk.error = OSError(errno.ENOSPC, "full")
    writer.write(message(0), TIME_NS)
    disk.error = None
    clock.now_s = 0.99
    writer.write(message(1), TIME_NS)
    clock.now_s = 1.0
    writer.write(message(2), TIME_NS)
    writer.close()
    assert kinds(tmp_path) == ["2"]
    assert writer.lost_messages == 2


def test_a_full_disk_leaves_no_half_a_line(tmp_path: Path, disk: Disk, clock: Clock) -> None:
    writer = ArchiveWriter(tmp_path, clock=clock)
    writer.write(message(0), TIME_NS)
    disk.room = 100
    writer.write(message(1), TIME_NS)
    disk.room = None
    clock.now_s = 2.0
    writer.write(message(2), TIME_NS)
    writer.close()
    assert kinds(tmp_path) == ["0", "reconnect", "2"]


def test_a_disk_that_stays_full_collects_no_empty_files(tmp_path: Path, disk: Disk, clock: Clock) -> None:
    disk.error = OSError(errno.ENOSPC, "full")
    writer = ArchiveWriter(tmp_path, clock=clock)
    for number in range(5):
        clock.now_s += 2
        writer.write(message(number), TIME_NS + number * SECOND_NS)
    writer.close()
    assert names(tmp_path) == []


def test_a_failed_file_is_given_up_for_a_new_one(tmp_path: Path, disk: Disk, clock: Clock) -> None:
    writer = ArchiveWriter(tmp_path, clock=clock)
    writer.write(message(0), TIME_NS)
    disk.error = OSError(errno.EIO, "Input/output error")
    writer.write(message(1), TIME_NS)
    disk.error = None
    clock.now_s = 2
    writer.write(message(2), TIME_NS)
    writer.close()
    assert len(names(tmp_path)) == 2
    assert kinds(tmp_path) == ["0", "reconnect", "2"]


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path, disk: Disk, clock: Clock) -> None:
    directory = tmp_path / "raw"
    writer = ArchiveWriter(directory, clock=clock)
    directory.rmdir()
    writer.write(message(0), TIME_NS)
    writer.close()
    assert kinds(directory) == ["0"]


def test_a_disk_that_is_full_at_the_start_does_not_stop_ingest(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        writer = ArchiveWriter(tmp_path / "raw", clock=clock)
        writer.write(message(0), TIME_NS)
    clock.now_s = 1.0
    writer.write(message(1), TIME_NS)
    writer.close()
    assert (writer.lost_messages, kinds(tmp_path / "raw")) == (1, ["1"])


def test_an_archive_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"archive .*file/archive: cannot be written: Not a directory"):
        ArchiveWriter(tmp_path / "file" / "archive")


@pytest.mark.process
def test_on_a_real_full_disk_all_lines_that_fit_are_whole_and_space_is_used_again(
    small_disk: Callable[[int], Path], clock: Clock
) -> None:
    disk = small_disk(256)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(128 * 1024))
    directory = disk / "raw"
    writer = ArchiveWriter(directory, clock=clock)
    for number in range(1000):
        clock.now_s += 0.1
        writer.write(message(number, timestamp=at(number // 10)), TIME_NS)
    lost = writer.lost_messages
    assert 500 < lost < 1000
    ballast.unlink()
    clock.now_s += 1
    for number in range(1000, 1100):
        writer.write(message(number, timestamp=at(number // 10)), TIME_NS)
    writer.close()
    records = list(read_archive(expand_paths(str(directory))))
    assert [record.reason for record in records if isinstance(record, Gap)] == ["reconnect"]
    assert len([record for record in records if isinstance(record, Tick)]) == 1100 - lost
    assert len(records) == 1101 - lost
