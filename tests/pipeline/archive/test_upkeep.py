"""Compression and retention of archive files."""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
from pathlib import Path
from typing import Any

import pytest
import structlog

from pipeline.archive import ArchivePolicy, ArchiveWriter, expand_paths, read_archive
from pipeline.archive.upkeep import Upkeep, compress
from pipeline.records import Tick
from tests.pipeline.feed.messages import TIME_NS, message

KEEP_S = 1000.0
NOW_S = 2_000_000_000.0


def archived(path: Path, *, age_s: float = 0.0, lines: int = 3) -> Path:
    text = b'{"volcast_archive":1}\n' + b"".join(message(number) + b"\n" for number in range(lines))
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return path


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def tidy(directory: Path, policy: ArchivePolicy) -> None:
    upkeep = Upkeep(directory, policy, clock=lambda: NOW_S)
    upkeep.tidy()
    upkeep.close()


def test_the_compressed_file_holds_the_same_bytes_and_the_same_time(tmp_path: Path) -> None:
    path = archived(tmp_path / "feed_20260405T223513Z.ndjson", age_s=5)
    content = path.read_bytes()
    assert compress(path, sync=True)
    (zipped,) = tmp_path.iterdir()
    assert zipped.name == "feed_20260405T223513Z.ndjson.gz"
    assert gzip.decompress(zipped.read_bytes()) == content
    assert zipped.stat().st_mtime == NOW_S - 5


def test_a_file_that_is_being_written_is_not_touched(tmp_path: Path) -> None:
    path = archived(tmp_path / "feed_20260405T223513Z.ndjson")
    with path.open("ab") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        assert not compress(path, sync=False)
    assert names(tmp_path) == [path.name]


def test_a_recording_that_no_writer_made_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "feed_20260405T223513Z.ndjson"
    path.write_bytes(message(0) + b"\n")
    assert not compress(path, sync=False)
    assert names(tmp_path) == [path.name]


def test_files_of_a_killed_writer_are_compressed_at_the_next_start(tmp_path: Path) -> None:
    archived(tmp_path / "feed_20260405T223513Z.ndjson")
    ArchiveWriter(tmp_path).close()
    assert names(tmp_path) == ["feed_20260405T223513Z.ndjson.gz"]


def test_a_kill_between_compression_and_removal_doubles_no_tick(tmp_path: Path) -> None:
    plain = archived(tmp_path / "feed_20260405T223513Z.ndjson")
    archived(tmp_path / "feed_20260405T223513Z.ndjson.gz")
    ticks = [record for record in read_archive(expand_paths(str(tmp_path))) if isinstance(record, Tick)]
    assert len(ticks) == 3
    assert expand_paths(f"{tmp_path}/*") == [tmp_path / f"{plain.name}.gz"]
    assert compress(plain, sync=False)
    assert names(tmp_path) == [f"{plain.name}.gz"]


def test_a_full_disk_leaves_the_plain_file_and_no_half_of_the_compressed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = archived(tmp_path / "feed_20260405T223513Z.ndjson")
    monkeypatch.setattr("pipeline.archive.upkeep.shutil.copyfileobj", fail)
    with structlog.testing.capture_logs() as events:
        upkeep = Upkeep(tmp_path, ArchivePolicy())
        for _ in range(3):
            upkeep.tidy()
        upkeep.close()
    assert names(tmp_path) == [path.name]
    assert [event["event"] for event in events] == ["archive upkeep failed"]


def test_files_older_than_the_retention_are_removed(tmp_path: Path) -> None:
    archived(tmp_path / "feed_20260405T223513Z.ndjson.gz", age_s=KEEP_S + 1)
    archived(tmp_path / "feed_20260405T233513Z.ndjson.gz", age_s=KEEP_S)
    tidy(tmp_path, ArchivePolicy(retention_s=KEEP_S))
    assert names(tmp_path) == ["feed_20260405T233513Z.ndjson.gz"]


def test_the_oldest_files_beyond_the_size_are_removed(tmp_path: Path) -> None:
    sizes = [
        archived(tmp_path / f"feed_20260405T2{hour}3513Z.ndjson.gz", lines=50 * (hour + 1)).stat().st_size
        for hour in range(3)
    ]
    tidy(tmp_path, ArchivePolicy(max_bytes=sum(sizes)))
    assert len(names(tmp_path)) == 3
    tidy(tmp_path, ArchivePolicy(max_bytes=sum(sizes) - 1))
    assert names(tmp_path) == ["feed_20260405T213513Z.ndjson.gz", "feed_20260405T223513Z.ndjson.gz"]


def test_without_a_limit_every_file_stays(tmp_path: Path) -> None:
    archived(tmp_path / "feed_20260405T223513Z.ndjson.gz", age_s=1e9)
    tidy(tmp_path, ArchivePolicy())
    assert len(names(tmp_path)) == 1


@pytest.mark.parametrize("name", ["my_recording.ndjson.gz", "feed_20260405.ndjson.gz", "feed_20260405T223513Z.csv"])
def test_files_that_a_person_named_are_never_removed(tmp_path: Path, name: str) -> None:
    archived(tmp_path / name, age_s=1e9)
    tidy(tmp_path, ArchivePolicy(retention_s=1, max_bytes=1))
    assert names(tmp_path) == [name]


def test_the_file_in_use_is_never_removed(tmp_path: Path) -> None:
    path = archived(tmp_path / "feed_20260405T223513Z.ndjson", age_s=1e9)
    with path.open("ab") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        tidy(tmp_path, ArchivePolicy(retention_s=1, max_bytes=1))
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize(("fsync", "synced"), [("never", 0), ("roll", 1), ("flush", 2)])
def test_the_policy_decides_how_often_a_file_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: Any, synced: int
) -> None:
    descriptors: list[int] = []
    monkeypatch.setattr("pipeline.archive.upkeep.os.fsync", descriptors.append)
    writer = ArchiveWriter(tmp_path, policy=ArchivePolicy(fsync=fsync))
    writer.write(message(0), TIME_NS)
    writer.flush()
    writer.close()
    assert len(descriptors) == synced


@pytest.mark.parametrize("product", ["BTC-PERP-INTX", "BIT-28JUN24-CDE", "BTCUSDT_240927", "1000SHIBUSDT"])
def test_files_of_every_product_are_removed_when_they_are_too_old(tmp_path: Path, product: str) -> None:
    archived(tmp_path / f"{product}_20260405T223513Z.ndjson.gz", age_s=KEEP_S + 1)
    tidy(tmp_path, ArchivePolicy(retention_s=KEEP_S))
    assert names(tmp_path) == []
