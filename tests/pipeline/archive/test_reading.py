from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from pipeline.archive import ArchiveWriter, expand_paths, latest_archive, read_archive, read_messages
from pipeline.datasets import coinbase_ticker_2025, coinbase_ticker_2026
from pipeline.records import DeadLetter, Gap, LateTick, Tick
from tests.pipeline.feed.messages import TIME_NS, heartbeat, message, subscriptions

needs_recordings = pytest.mark.skipif(
    not coinbase_ticker_2026(), reason="no recordings: ../shared/data or VOLCAST_DATA_DIR"
)


def at(second: int) -> str:
    return f"2026-04-05T22:{second // 60:02d}:{second % 60:02d}Z"


def wrapped(raw: bytes, ingest_time: Any = "2026-04-05T22:35:13.865365+00:00") -> bytes:
    return json.dumps({"ingest_time": ingest_time, "product_id": "BTC-USD", "payload": json.loads(raw)}).encode()


def write(path: Path, *lines: bytes) -> Path:
    text = b"".join(line + b"\n" for line in lines)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def kinds(*paths: Path) -> list[str]:
    """The records of recordings, each as its sequence number or its reason."""
    return [str(one.sequence_num) if isinstance(one, Tick) else one.reason for one in read_archive(paths)]


def test_a_folder_whose_recordings_have_other_names_is_read(tmp_path: Path) -> None:
    write(tmp_path / "btcusdt_20260405.gz", message(0))
    assert kinds(tmp_path) == ["0"]
    write(tmp_path / "a.ndjson", message(5))
    assert kinds(tmp_path) == ["5"], "if there are recordings by name, other files are left out"


@needs_recordings
def test_the_recording_of_2026_is_5970_ticks_and_nothing_else() -> None:
    records = list(read_archive(coinbase_ticker_2026()))
    assert Counter(type(record) for record in records) == {Tick: 5970}
    first = records[0]
    assert isinstance(first, Tick)
    assert (first.event_time_ns, first.ingest_time_ns) == (1775428513925327620, 1775428513865365000)
    assert (first.price, first.bid, first.ask) == (67468.26, 67468.26, 67469.62)


@needs_recordings
def test_the_30_pieces_of_2025_are_73334_ticks_with_29_reconnects_between_them() -> None:
    records = list(read_archive(reversed(coinbase_ticker_2025())))
    assert Counter(type(record) for record in records) == {Tick: 73334, Gap: 29}
    assert all(record.reason == "reconnect" for record in records if isinstance(record, Gap))
    times = [record.event_time_ns for record in records if isinstance(record, Tick | Gap)]
    assert times == sorted(times)
    assert all(record.ingest_time_ns == 0 for record in records if isinstance(record, Tick))


@pytest.mark.parametrize("name", ["a.ndjson", "a.ndjson.gz"])
def test_both_forms_plain_and_zipped_are_read(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, message(0), wrapped(message(1)), wrapped(subscriptions(2)), heartbeat(3), message(4))
    ticks = list(read_archive([path]))
    assert [getattr(one, "ingest_time_ns", None) for one in ticks] == [0, 1775428513865365000, 0]
    assert kinds(path) == ["0", "1", "4"]


def test_gzip_is_known_by_its_first_bytes_not_by_its_name(tmp_path: Path) -> None:
    zipped = write(tmp_path / "a.ndjson.gz", message(0)).rename(tmp_path / "a.ndjson")
    assert kinds(zipped) == ["0"]


def test_a_gzip_file_of_several_members_is_read_through(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson.gz"
    path.write_bytes(b"".join(gzip.compress(message(number) + b"\n") for number in range(3)) + b"\0" * 100_000)
    assert kinds(path) == ["0", "1", "2"]


def test_files_are_read_in_the_order_of_their_first_message(tmp_path: Path) -> None:
    later = write(tmp_path / "a.ndjson", message(0, timestamp=at(50)))
    earlier = write(tmp_path / "b.ndjson", message(0, timestamp=at(10)), message(1, timestamp=at(11)))
    times = [one.event_time_ns for one in read_archive([later, earlier]) if isinstance(one, Tick)]
    assert times == sorted(times)


def test_a_file_that_goes_on_where_the_last_ended_is_the_same_connection(tmp_path: Path) -> None:
    first = write(tmp_path / "a.ndjson", message(0, timestamp=at(1)), message(1, timestamp=at(2)))
    second = write(tmp_path / "b.ndjson", message(2, timestamp=at(3)))
    assert kinds(first, second) == ["0", "1", "2"]


@pytest.mark.parametrize("number", [0, 1, 3, 17])
def test_a_file_that_does_not_go_on_exactly_is_a_new_connection(tmp_path: Path, number: int) -> None:
    first = write(tmp_path / "a.ndjson", message(0, timestamp=at(1)), message(1, timestamp=at(2)))
    second = write(tmp_path / "b.ndjson", message(number, timestamp=at(3)))
    assert kinds(first, second) == ["0", "1", "reconnect", str(number)]


def test_a_counter_that_falls_to_zero_inside_a_file_is_a_new_connection(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", message(0), message(1), message(0), message(1), message(5))
    assert kinds(path) == ["0", "1", "reconnect", "0", "1", "sequence", "5"]


def test_a_connection_whose_first_line_is_damaged_is_known_by_how_far_the_counter_falls(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", message(5000), message(0)[:-30], message(1), message(2))
    assert kinds(path) == ["5000", "not_json", "reconnect", "1", "2"]


@pytest.mark.parametrize(("number", "kind"), [(4000, ["old_sequence"]), (3999, ["reconnect", "3999"])])
def test_a_number_up_to_a_thousand_smaller_is_an_old_message(tmp_path: Path, number: int, kind: list[str]) -> None:
    assert kinds(write(tmp_path / "a.ndjson", message(5000), message(number))) == ["5000", *kind]


def test_a_smaller_number_inside_a_file_is_late_and_no_new_connection(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", message(3), message(4), message(3), message(5))
    assert kinds(path) == ["3", "4", "old_sequence", "5"]
    (late,) = (one for one in read_archive([path]) if isinstance(one, LateTick))
    assert late.source == f"{path}:3"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (message(1)[:-30], "not_json"),
        (b"hello", "not_json"),
        (message(1).replace(b"BTC", b"\xff\xfe"), "not_json"),
        (b"{}", "wrong_shape"),
        (b"[]", "wrong_shape"),
        (b'{"payload":{}}', "wrong_shape"),
        (b'{"payload":null}', "wrong_shape"),
        (b'{"payload":"no message"}', "not_json"),
        (b'{"payload_base64":"%"}', "wrong_shape"),
        (b'{"payload_base64":7}', "wrong_shape"),
        (wrapped(message(1), "yesterday"), "bad_time"),
        (wrapped(message(1), [1775428513.8]), "bad_time"),
    ],
)
def test_a_damaged_line_is_a_dead_letter_with_its_place_and_the_rest_goes_on(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = write(tmp_path / "a.ndjson", message(0), line, message(2))
    dead = [one for one in read_archive([path]) if isinstance(one, DeadLetter)]
    assert [(one.reason, one.source) for one in dead] == [(reason, f"{path}:2")]
    assert kinds(path)[0] == "0"
    assert kinds(path)[-1] == "2"


def test_a_last_line_without_its_end_is_read_and_blank_lines_are_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(message(0) + b"\r\n\n  \n" + message(1))
    assert kinds(path) == ["0", "1"]


def noise(count: int) -> list[bytes]:
    """Messages that do not compress to almost nothing."""
    return [message(number, {"best_bid_quantity": f"0.{number * 7919 % 99991:05d}"}) for number in range(count)]


def test_of_a_truncated_gzip_file_all_lines_before_the_cut_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson.gz", *noise(2000))
    path.write_bytes(path.read_bytes()[:-2000])
    *ticks, dead = read_archive([path])
    assert isinstance(dead, DeadLetter)
    assert (dead.reason, dead.source) == ("not_json", f"{path}:{len(ticks) + 1}")
    assert "cut off" in dead.detail
    assert message(len(ticks))[:20].decode() in dead.raw
    assert 1000 < len(ticks) < 2000
    assert kinds(path)[:-1] == [str(number) for number in range(len(ticks))]


@pytest.mark.parametrize("cut_bytes", [8, 9, 40, 200])
@pytest.mark.parametrize("lines", [3, 3000])
def test_a_gzip_member_that_is_cut_off_does_not_hide_the_members_after_it(
    tmp_path: Path, cut_bytes: int, lines: int
) -> None:
    first, second = (
        [
            message(number, timestamp=f"2026-04-05T22:0{member}:13.{number:04d}Z")
            for number in range(start, start + lines)
        ]
        for member, start in enumerate((0, lines))
    )
    members = [gzip.compress(b"".join(raw + b"\n" for raw in raws)) for raws in (first, second)]
    path = tmp_path / "killed.ndjson.gz"
    path.write_bytes(members[0][:-cut_bytes] + members[1])
    records = list(read_archive([path]))
    numbers = [record.sequence_num for record in records if isinstance(record, Tick)]
    assert numbers[-lines:] == list(range(lines, 2 * lines))
    assert numbers[:-lines] == list(range(len(numbers) - lines))
    (dead,) = (record for record in records if isinstance(record, DeadLetter))
    assert (dead.reason, dead.source) == ("not_json", f"{path}:{len(numbers) - lines + 1}")


def test_of_a_damaged_gzip_file_the_lines_before_the_damage_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson.gz", *noise(2000))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(data)
    records = list(read_archive([path]))
    assert isinstance(records[-1], DeadLetter)
    assert "gzip" in records[-1].detail
    assert len([one for one in records if isinstance(one, Tick)]) > 800


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x1f\x8b"])
def test_an_empty_file_does_not_stop_the_others(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ndjson").write_bytes(content)
    write(tmp_path / "b.ndjson", message(0), message(1))
    assert kinds(tmp_path)[:2] == ["0", "1"]


@pytest.mark.parametrize("name", ["absent.ndjson", "empty", "*.nothing"])
def test_what_cannot_be_read_is_named_at_the_call(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    path = tmp_path / name
    with pytest.raises(InputError, match=name.replace("*", r"\*")):
        read_archive([path])
    with pytest.raises(InputError, match=name.replace("*", r"\*")):
        expand_paths(str(path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", message(0))
    path.chmod(0)
    with pytest.raises(InputError, match=r"a\.ndjson: cannot be read: Permission denied"):
        read_archive([path])


def test_paths_are_files_directories_and_globs_each_file_once(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.ndjson", message(0)), write(tmp_path / "b.jsonl.gz", message(0))
    (tmp_path / "notes.txt").write_text("")
    assert expand_paths(str(tmp_path)) == [a, b]
    assert expand_paths(f"{b}, {tmp_path}/*.ndjson,{a}") == [b, a]
    comma = write(tmp_path / "a,b.ndjson", message(0))
    assert expand_paths(str(comma)) == [comma]
    with pytest.raises(InputError, match="empty name"):
        expand_paths(f"{a},")


def test_the_latest_recording_is_the_latest_by_the_time_in_its_name(tmp_path: Path) -> None:
    newest = write(tmp_path / "ETH-USD_20260105T000000Z.ndjson", message(0))
    oldest = write(tmp_path / "feed_20260104T235959Z.ndjson.gz", message(0))
    os.utime(newest, (0, 0))
    assert oldest.exists()
    assert latest_archive(tmp_path) == newest
    with pytest.raises(InputError, match="no such directory"):
        latest_archive(tmp_path / "absent")


ODD = [
    b"",
    b"{",
    b"not json",
    b"[1]",
    b'"text"',
    b'{"a":\n1}',
    b'{"a":1}\n',
    b"\xff\x00",
    '{"é":"ü"}'.encode(),
    b" {} ",
]


def test_what_was_written_is_read_back_byte_for_byte(tmp_path: Path) -> None:
    raws = [message(0), subscriptions(1), *ODD, message(2, {"product_id": "ETH-USD"})]
    writer = ArchiveWriter(tmp_path)
    for count, raw in enumerate(raws):
        writer.write(raw, TIME_NS + count)
    writer.close()
    (path,) = tmp_path.iterdir()
    assert path.name == "feed_20260405T223513Z.ndjson"
    back = list(read_messages([path]))
    assert [(one.raw, one.ingest_time_ns) for one in back] == [(raw, TIME_NS + n) for n, raw in enumerate(raws)]
    _, *lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["product_id"] for line in (lines[0], lines[1], lines[-1])] == ["BTC-USD", None, "ETH-USD"]
    assert lines[0]["payload"] == json.loads(message(0))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary() | st.text().map(str.encode), min_size=1, max_size=5))
def test_any_bytes_at_all_are_read_back(tmp_path: Path, raws: list[bytes]) -> None:
    writer = ArchiveWriter(tmp_path)
    for raw in raws:
        writer.write(raw, TIME_NS)
    writer.close()
    path = latest_archive(tmp_path)
    try:
        assert [one.raw for one in read_messages([path])] == raws
    finally:
        path.unlink()


@needs_recordings
def test_a_recording_written_again_gives_the_same_records(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path, ["BTC-USD"])
    for one in read_messages(coinbase_ticker_2026()):
        writer.write(one.raw, one.ingest_time_ns)
    writer.close()
    assert list(read_archive([tmp_path])) == list(read_archive(coinbase_ticker_2026()))
    assert {path.name.split("_")[0] for path in tmp_path.iterdir()} == {"BTC-USD"}
