"""Snapshots on their way through the topic."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import pytest

from pipeline.stream.snapshots import (
    CHECKSUM_BYTES,
    FORMAT_VERSION,
    PART_BYTES,
    Snapshot,
    SnapshotReader,
    records_of,
)


def snapshot(**changed: Any) -> Snapshot:
    fields = {"group": "g", "partition": 3, "lineage": "l", "venue": "coinbase", "product_id": "BTC-USD"}
    return Snapshot(
        **{"version": FORMAT_VERSION, **fields, "offset": 7, "suspect": (5, 6), "state": b"state", **changed}
    )


def read(values: list[bytes], end: int = 100) -> list[Snapshot]:
    reader = SnapshotReader("g", 3, "l", end)
    for value in values:
        reader.take(value)
    return reader.complete()


def with_checksum(content: bytes) -> bytes:
    return content + zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big")


def values_of(*snapshots: Snapshot) -> list[bytes]:
    return [value for one in snapshots for _, value in records_of(one)]


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
def test_a_state_of_any_size_arrives_whole_in_messages_that_kafka_takes(size: int) -> None:
    state = bytes(range(256)) * (size // 256 + 1)
    whole = snapshot(state=state[:size])
    records = list(records_of(whole))
    assert len(records) == max(1, -(-size // PART_BYTES))
    assert len({key for key, _ in records}) == len(records)
    assert all(len(key) + len(value) < 900_000 for key, value in records)
    (got,) = read([value for _, value in records])
    assert (got.state, got.offset, got.suspect) == (whole.state, 7, (5, 6))


def test_the_newest_snapshot_of_each_product_counts() -> None:
    older, newer = snapshot(state=b"old"), snapshot(offset=9, state=b"new")
    other = snapshot(product_id="ETH-USD", state=b"other")
    assert {one.state for one in read(values_of(older, other, newer))} == {b"new", b"other"}


def test_two_venues_may_use_one_product_name() -> None:
    here, there = snapshot(state=b"here"), snapshot(venue="binance", state=b"there")
    assert len({key for one in (here, there) for key, _ in records_of(one)}) == 2
    assert len(read(values_of(here, there))) == 2


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_snapshot_without_one_of_its_parts_is_not_used(missing: int) -> None:
    values = values_of(snapshot(state=b"x" * (2 * PART_BYTES + 1)))
    del values[missing]
    assert read(values) == []


def test_parts_of_an_older_longer_snapshot_are_not_mixed_in() -> None:
    longer, shorter = snapshot(state=b"x" * (PART_BYTES + 1)), snapshot(offset=9, state=b"y")
    compacted = [values_of(longer)[1], *values_of(shorter)]  # the key of part 0 is taken over
    assert [one.state for one in read(compacted)] == [b"y"]
    grown = [*values_of(shorter), *values_of(snapshot(offset=11, state=b"z" * (PART_BYTES + 1)))]
    assert [len(one.state) for one in read(grown)] == [PART_BYTES + 1]


def test_a_snapshot_of_a_later_offset_than_the_committed_one_is_not_used() -> None:
    assert read(values_of(snapshot()), end=7) != []
    assert read(values_of(snapshot()), end=6) == []


@pytest.mark.parametrize("changed", [{"group": "h"}, {"partition": 4}, {"lineage": "m"}])
def test_snapshots_of_another_group_partition_or_lineage_are_not_used(changed: dict[str, Any]) -> None:
    assert read(values_of(snapshot(**changed))) == []


def unreadable(*values: bytes) -> int:
    reader = SnapshotReader("g", 3, "l", 100)
    for value in values:
        reader.take(value)
    assert reader.complete() == []
    return reader.unreadable


def test_the_format_version_is_in_the_bytes() -> None:
    (value,) = values_of(snapshot())
    assert msgspec.msgpack.decode(value[:-CHECKSUM_BYTES])["version"] == FORMAT_VERSION


def test_an_unknown_format_is_counted() -> None:
    (other,) = values_of(snapshot(version=FORMAT_VERSION + 1))
    (changed,) = values_of(snapshot())
    assert unreadable(other) == 1
    fields = {**msgspec.msgpack.decode(changed[:-CHECKSUM_BYTES]), "state": [1]}
    assert unreadable(with_checksum(msgspec.msgpack.encode(fields))) == 1


@pytest.mark.parametrize("changed", [{"group": "h"}, {"partition": 4}, {"lineage": "m"}])
def test_an_unknown_format_of_another_group_partition_or_lineage_does_not_matter(changed: dict[str, Any]) -> None:
    assert unreadable(*values_of(snapshot(version=FORMAT_VERSION + 1, **changed))) == 0


@pytest.mark.parametrize("value", [b"", b"\xc1", b"{}", msgspec.msgpack.encode({"group": "g"})])
def test_a_deleted_key_or_a_record_of_another_program_does_not_matter(value: bytes) -> None:
    assert unreadable(value) == 0


def test_a_snapshot_that_a_crash_cut_off_does_not_hide_the_one_before() -> None:
    long = b"x" * (PART_BYTES + 1)
    cut_off = values_of(snapshot(offset=9, state=long))[:1]
    assert [one.offset for one in read([*values_of(snapshot(state=long)), *cut_off])] == [7]


def test_unknown_fields_of_a_newer_version_are_ignored() -> None:
    (value,) = values_of(snapshot())
    added = msgspec.msgpack.encode({**msgspec.msgpack.decode(value[:-CHECKSUM_BYTES]), "added": {"later": 1}})
    assert len(read([with_checksum(added)])) == 1


def test_no_changed_bit_is_read_as_a_snapshot() -> None:
    (value,) = values_of(snapshot(state=b"state of a window"))
    reader = SnapshotReader("g", 3, "l", 100)
    for bit in range(8 * len(value)):
        damaged = bytearray(value)
        damaged[bit // 8] ^= 1 << bit % 8
        reader.take(bytes(damaged))
    assert reader.complete() == []
    assert reader.unreadable > 4 * len(value)  # the rest names another group, partition or lineage
