"""Feature files: the same bits back, and never half a file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog

from common.errors import InputError
from common.losses import not_stored
from common.schema import CORE_1, FULL_1, FULL_2, FeatureSchema
from pipeline.features.table import FeatureRows
from pipeline.parquet import FeatureParquetWriter, arrow_schema, read_features

FIRST_NS = 1_775_428_513_123_456_789


def some_rows(count: int, start: int = 0, schema: FeatureSchema = CORE_1) -> FeatureRows:
    rng = np.random.default_rng(start)
    values = rng.normal(size=(count, len(schema)))
    values[: count // 2, 5] = np.nan
    at = np.arange(start, start + count, dtype=np.int64)
    products = ["BTC-USD" if one % 3 else "ETH-USD" for one in range(count)]
    return FeatureRows(products, FIRST_NS + at, FIRST_NS + at + 9, at, at % 2 == 0, values, schema)


def write(writer: FeatureParquetWriter, rows: FeatureRows) -> None:
    writer.write(rows.product_ids, rows, rows.values, rows.warm)


def break_after(writer: FeatureParquetWriter, rows: FeatureRows) -> None:
    with contextlib.suppress(ZeroDivisionError), writer:
        write(writer, rows)
        raise ZeroDivisionError


def assert_equal(got: FeatureRows, want: FeatureRows) -> None:
    assert (got.product_ids, got.schema) == (want.product_ids, want.schema)
    for name in ("event_time_ns", "ingest_time_ns", "sequence_num", "warm", "values"):
        assert getattr(got, name).dtype == getattr(want, name).dtype
        assert getattr(got, name).tobytes() == getattr(want, name).tobytes()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("schema", [CORE_1, FULL_1], ids=lambda schema: schema.name)
def test_rows_come_back_bit_for_bit(tmp_path: Path, schema: FeatureSchema) -> None:
    counts = [(1, 0), (70_000, 10), (0, 0), (5, 90_000)]
    parts = [some_rows(count, start, schema) for count, start in counts]
    with FeatureParquetWriter(tmp_path / "features.parquet", schema=schema) as writer:
        for part in parts:
            write(writer, part)
    assert writer.rows == 70_006
    assert_equal(read_features(tmp_path / "features.parquet"), FeatureRows.joined(parts))


def test_a_row_group_may_end_inside_a_batch(tmp_path: Path) -> None:
    rows = some_rows(140_000)
    with FeatureParquetWriter(tmp_path / "features.parquet") as writer:
        write(writer, rows)
    assert pq.ParquetFile(tmp_path / "features.parquet").metadata.num_row_groups == 3
    assert_equal(read_features(tmp_path / "features.parquet"), rows)


@pytest.mark.parametrize("schema", [CORE_1, FULL_1], ids=lambda schema: schema.name)
def test_any_parquet_reader_sees_plain_columns(tmp_path: Path, schema: FeatureSchema) -> None:
    with FeatureParquetWriter(tmp_path / "features.parquet", schema=schema) as writer:
        write(writer, some_rows(4, schema=schema))
    table = pq.read_table(tmp_path / "features.parquet")
    times = ["event_time_ns", "ingest_time_ns", "sequence_num"]
    assert table.column_names == ["product_id", *times, "warm", *schema.names]
    assert table["product_id"].to_pylist() == ["ETH-USD", "BTC-USD", "BTC-USD", "ETH-USD"]
    assert {str(table.schema.field(name).type) for name in schema.names} == {"double"}
    assert table.schema.metadata[b"volcast.schema.hash"] == schema.hash.encode()
    assert table.schema.metadata[b"volcast.schema.name"] == schema.name.encode()


def test_a_file_without_rows_can_be_read(tmp_path: Path) -> None:
    FeatureParquetWriter(tmp_path / "features.parquet").close()
    assert len(read_features(tmp_path / "features.parquet")) == 0


def test_a_file_has_its_name_only_once_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "features.parquet"
    with FeatureParquetWriter(target) as writer:
        write(writer, some_rows(70_000))
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["features.parquet"]


def test_an_error_leaves_the_file_of_before_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "features.parquet"
    with FeatureParquetWriter(target) as writer:
        write(writer, some_rows(3))
    break_after(FeatureParquetWriter(target), some_rows(9))
    assert_equal(read_features(target), some_rows(3))
    assert [path.name for path in tmp_path.iterdir()] == ["features.parquet"]


def test_an_error_leaves_a_directory_the_rows_it_was_given(tmp_path: Path) -> None:
    break_after(FeatureParquetWriter(tmp_path), some_rows(9))
    assert_equal(read_features(tmp_path), some_rows(9))


def test_a_directory_rolls_by_rows(tmp_path: Path) -> None:
    with FeatureParquetWriter(tmp_path / "new" / "dir", roll_rows=10) as writer:
        for start in range(0, 24, 4):
            write(writer, some_rows(4, start))
    files = sorted((tmp_path / "new" / "dir").iterdir())
    assert [len(read_features(file)) for file in files] == [12, 12]
    assert [file.name for file in files] == ["features_20260405T223513Z-2.parquet", "features_20260405T223513Z.parquet"]


def test_a_directory_rolls_by_time_though_nothing_comes(tmp_path: Path) -> None:
    clock = Clock()
    writer = FeatureParquetWriter(tmp_path, roll_s=60, clock=clock)
    write(writer, some_rows(4))
    clock.now = 59.0
    writer.roll_if_due()
    assert not list(tmp_path.glob("*.parquet"))
    clock.now = 60.0
    writer.roll_if_due()
    assert [len(read_features(file)) for file in tmp_path.glob("*.parquet")] == [4]
    clock.now = 1000.0
    writer.roll_if_due()
    writer.close()
    assert len(list(tmp_path.iterdir())) == 1  # no row, no file


def test_writers_of_one_directory_never_replace_each_others_files(tmp_path: Path) -> None:
    first, second = FeatureParquetWriter(tmp_path), FeatureParquetWriter(tmp_path)
    write(first, some_rows(1))
    write(second, some_rows(2))
    first.close()
    second.close()
    assert sorted(len(read_features(file)) for file in tmp_path.glob("*.parquet")) == [1, 2]


@pytest.mark.process
def test_a_kill_leaves_earlier_files_and_the_next_writer_clears_up(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from tests.pipeline.test_parquet import FeatureParquetWriter, some_rows, write\n"
        "writer = FeatureParquetWriter(pathlib.Path(sys.argv[1]), roll_rows=100)\n"
        "write(writer, some_rows(100)); write(writer, some_rows(70_000, 100)); write(writer, some_rows(7))\n"
        "print('written', flush=True); time.sleep(60)\n"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=root)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    living = FeatureParquetWriter(tmp_path)
    hidden = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert len(hidden) == 1  # a writer that lives keeps its file
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert sorted(len(read_features(file)) for file in tmp_path.glob("*.parquet")) == [100, 70_000]
    FeatureParquetWriter(tmp_path).close()
    assert not hidden[0].exists()
    living.close()


def test_a_reader_may_ask_for_one_schema_and_never_gets_two(tmp_path: Path) -> None:
    for number, schema in enumerate([CORE_1, FULL_1]):
        with FeatureParquetWriter(tmp_path / f"{number}.parquet", schema=schema) as writer:
            write(writer, some_rows(3, schema=schema))
    assert read_features(tmp_path / "1.parquet", FULL_1).schema == FULL_1
    with pytest.raises(InputError, match=rf"0.parquet: expected schema full/1 \({FULL_1.hash}\), got core/1"):
        read_features(tmp_path / "0.parquet", FULL_1)
    with pytest.raises(InputError, match=rf"1.parquet: expected schema core/1 \({CORE_1.hash}\), got full/1"):
        read_features(tmp_path)


def test_reading_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(InputError) as raised:
            read_features(path)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "No such file" in refusal(tmp_path / "missing.parquet")
    assert "holds no .parquet file" in refusal(tmp_path)
    good = tmp_path / "good.parquet"
    with FeatureParquetWriter(good) as writer:
        write(writer, some_rows(1000))
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"not a parquet file")
    assert "not a complete Parquet file" in refusal(bad)
    bad.write_bytes(good.read_bytes()[:-100])
    assert "not a complete Parquet file" in refusal(bad)
    table = pq.read_table(good)
    pq.write_table(
        table.replace_schema_metadata({b"volcast.schema.hash": b"abc", b"volcast.schema.name": b"other/2"}), bad
    )
    known = f"core/1 ({CORE_1.hash}) or full/1 ({FULL_1.hash}) or full/2 ({FULL_2.hash})"
    assert f"expected schema {known}, got other/2 (abc)" in refusal(bad)
    pq.write_table(table.replace_schema_metadata({}), bad)
    assert "got none (no hash)" in refusal(bad)
    pq.write_table(table.drop_columns(["volatility"]), bad)
    assert "no column volatility" in refusal(bad)
    wrong = table.set_column(1, "event_time_ns", pa.array(["x"] * 1000))
    pq.write_table(wrong.replace_schema_metadata(arrow_schema(CORE_1).metadata), bad)
    assert "event_time_ns: expected int64, got string" in refusal(bad)


def test_a_flipped_bit_never_gives_other_rows(tmp_path: Path) -> None:
    path, want = tmp_path / "features.parquet", some_rows(1000)
    with FeatureParquetWriter(path) as writer:
        write(writer, want)
    whole = path.read_bytes()
    data_bytes = len(whole) - int.from_bytes(whole[-8:-4], "little") - 8  # what is left is the footer
    noticed = 0
    for at in range(4, data_bytes, data_bytes // 100):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            assert_equal(read_features(path), want)  # what hit a byte without meaning
        except InputError:
            noticed += 1
    assert noticed > 90


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        FeatureParquetWriter(tmp_path / "file" / "features.parquet")


class FullDisk:
    """Files opened from now on refuse to be written, as on a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        opened = Path.open
        disk = self

        class Refusing:
            def __init__(self, stream: Any) -> None:
                self._stream = stream

            def __getattr__(self, name: str) -> Any:
                return getattr(self._stream, name)

            def write(self, data: Any) -> Any:
                if disk.full:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return self._stream.write(data)

        def open_file(path: Path, mode: str = "r", *args: Any, **named: Any) -> Any:
            stream = opened(path, mode, *args, **named)
            return Refusing(stream) if mode == "xb" else stream

        monkeypatch.setattr(Path, "open", open_file)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    return FullDisk(monkeypatch)


def test_a_full_disk_stops_no_worker_is_logged_once_counted_and_recovers(tmp_path: Path, disk: FullDisk) -> None:
    clock = Clock()
    before = not_stored().get("parquet", 0)
    with structlog.testing.capture_logs() as events:
        writer = FeatureParquetWriter(tmp_path, roll_rows=1_000_000, roll_s=300, clock=clock)
        write(writer, some_rows(10))
        disk.full = True
        for step in range(60):  # ten minutes
            clock.now = 10.0 * step
            write(writer, some_rows(100, 1000 + step))
            writer.roll_if_due()
        lost = writer.lost_rows
        disk.full = False
        for step in range(60, 66):
            clock.now = 10.0 * step
            write(writer, some_rows(100, 1000 + step))
        writer.close()
    assert [event["event"] for event in events] == [
        "Parquet cannot be written, features go on without it",
        "Parquet is written again",
    ]
    assert lost >= 3_000
    assert not_stored()["parquet"] - before == writer.lost_rows
    assert len(read_features(tmp_path)) == 10 + 66 * 100 - writer.lost_rows
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_disk_that_is_full_when_a_row_group_is_written_stops_no_worker(tmp_path: Path, disk: FullDisk) -> None:
    writer = FeatureParquetWriter(tmp_path, clock=Clock())
    disk.full = True
    write(writer, some_rows(150_000))
    assert writer.lost_rows == 150_000
    writer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("wait_s", "lost"), [(9.9, 20), (10.0, 10)])
def test_after_a_failure_rows_are_only_counted_for_ten_seconds(
    tmp_path: Path, disk: FullDisk, wait_s: float, lost: int
) -> None:
    clock = Clock()
    writer = FeatureParquetWriter(tmp_path, clock=clock)
    disk.full = True
    write(writer, some_rows(10))
    writer.close()
    disk.full = False
    clock.now += wait_s
    write(writer, some_rows(10, 50))
    writer.close()
    assert writer.lost_rows == lost


def test_a_single_file_on_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, disk: FullDisk) -> None:
    writer = FeatureParquetWriter(tmp_path / "features.parquet")
    write(writer, some_rows(10))
    disk.full = True
    with pytest.raises(InputError, match=r"features\.parquet: cannot be written: No space left on device"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_the_start_stops_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    clock = Clock()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        writer = FeatureParquetWriter(tmp_path / "rows", clock=clock)
        write(writer, some_rows(10))
    clock.now = 10.0
    write(writer, some_rows(5))
    writer.close()
    assert (writer.lost_rows, len(read_features(tmp_path / "rows"))) == (10, 5)


@pytest.mark.process
def test_on_a_real_full_disk_the_worker_goes_on_and_its_next_file_is_whole(small_disk: Callable[[int], Path]) -> None:
    disk, clock = small_disk(512), Clock()
    writer = FeatureParquetWriter(disk / "rows", clock=clock)
    write(writer, some_rows(70_000))  # 7 MB
    assert writer.lost_rows == 70_000
    clock.now = 10.0
    write(writer, some_rows(100))
    writer.close()
    assert_equal(read_features(disk / "rows"), some_rows(100))


def test_a_writer_that_was_taken_for_abandoned_before_it_had_its_lock_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock
    removed: list[Path] = []

    def remove_first(stream: Any, operation: int) -> None:
        if not removed:
            removed.append(Path(stream.name))
            removed[0].unlink()  # as another writer's look for abandoned files does
        lock(stream, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with FeatureParquetWriter(tmp_path / "out.parquet"):
        pass
    assert removed
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
