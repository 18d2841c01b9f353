"""The topic of snapshots: the state of each product's windows as of an offset of ticks.raw.

A record is the snapshot as MessagePack and a checksum (CRC-32, 4 bytes, big-endian). Without it, a state with a wrong
number would give wrong features, or make a kernel read beyond its arrays.

The topic is compacted: of each key Kafka keeps the newest record. A state that exceeds the size of a Kafka message is
cut into parts. Snapshots of one partition of ticks.raw share a partition of the topic.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import msgspec

FORMAT_VERSION = 2
CHECKSUM_BYTES = 4
PART_BYTES = 800_000  # Kafka takes messages of 1,000,000 bytes


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that every format version keeps: whose snapshot it is, and in which format."""

    version: int = 1  # records of the first release lack it
    group: str
    partition: int  # of ticks.raw
    lineage: str  # see Marker


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a product, or a part of it. Newer versions may add fields."""

    version: int  # without a default, which would be left out of the bytes
    group: str
    partition: int
    lineage: str
    venue: str
    product_id: str
    offset: int  # records of ticks.raw before this offset are in the state
    suspect: tuple[int, int] | None = None  # see TimeRule
    state: bytes  # see pipeline/features/state.py
    part: int = 0
    parts: int = 1


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Snapshot).decode
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_NOT_DECODED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def records_of(snapshot: Snapshot) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each part."""
    state = snapshot.state
    starts = range(0, max(len(state), 1), PART_BYTES)
    for part, start in enumerate(starts):
        value = msgspec.structs.replace(snapshot, state=state[start : start + PART_BYTES], part=part, parts=len(starts))
        key = f"{snapshot.group}/{snapshot.partition}/{snapshot.venue}:{snapshot.product_id}/{part}"
        yield key.encode(), encoded(value)


def encoded(snapshot: Snapshot) -> bytes:
    content = _encode(snapshot)
    return content + zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big")


def _decoded(value: bytes) -> Snapshot | None:
    """None for a record that is damaged or of another version. Version 1 had no checksum."""
    content, checksum = value[:-CHECKSUM_BYTES], value[-CHECKSUM_BYTES:]
    if zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big") != checksum:
        return None
    try:
        snapshot = _decode(content)
    except _NOT_DECODED:
        return None
    return snapshot if snapshot.version == FORMAT_VERSION else None


class SnapshotReader:
    """Collects the records of the topic in order: of each product the newest complete snapshot.

    end: snapshots of later offsets are left out.
    """

    def __init__(self, group: str, partition: int, lineage: str, end: int) -> None:
        self._wanted = group, partition, lineage
        self._end = end
        self._parts: dict[tuple[str, str], dict[int, Snapshot]] = {}  # of the newest snapshot, as far as read
        self._complete: dict[tuple[str, str], Snapshot] = {}
        self.unreadable = 0  # of the wanted lineage, damaged or of another version

    def take(self, value: bytes) -> None:
        """Takes the next record. Records of other lineages and other programs are ignored."""
        try:
            head = _decode_head(value[:-CHECKSUM_BYTES])
        except _NOT_DECODED:
            return
        if (head.group, head.partition, head.lineage) != self._wanted:
            return
        part = _decoded(value)
        if part is None:
            self.unreadable += 1
        elif part.offset <= self._end:
            self._add(part)

    def complete(self) -> list[Snapshot]:
        return list(self._complete.values())

    def _add(self, part: Snapshot) -> None:
        """A newer snapshot replaces an older one once it is complete: a crash may have cut it off (at least once)."""
        product = part.venue, part.product_id
        parts = self._parts.setdefault(product, {})
        if any(other.offset != part.offset for other in parts.values()):
            parts.clear()
        parts[part.part] = part
        if parts.keys() >= set(range(part.parts)):
            state = b"".join(parts[number].state for number in range(part.parts))
            self._complete[product] = msgspec.structs.replace(part, state=state)
