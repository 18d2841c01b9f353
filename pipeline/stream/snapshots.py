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


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a product, or a part of it. Newer versions may add fields."""

    version: int = FORMAT_VERSION
    group: str
    partition: int  # of ticks.raw
    lineage: str  # see Marker
    venue: str
    product_id: str
    offset: int  # records of ticks.raw before this offset are in the state
    suspect: tuple[int, int] | None = None  # see TimeRule
    state: bytes  # see pipeline/features/state.py
    part: int = 0
    parts: int = 1


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Snapshot).decode


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
    """None for a record that is damaged, or of an older version, which wrote no checksum."""
    content, checksum = value[:-CHECKSUM_BYTES], value[-CHECKSUM_BYTES:]
    if zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big") != checksum:
        return None
    try:
        return _decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


class SnapshotReader:
    """Collects the records of the topic in order and gives the newest complete snapshot of each product."""

    def __init__(self, group: str, partition: int, lineage: str) -> None:
        self._wanted = group, partition, lineage
        self._parts: dict[tuple[str, str], dict[int, Snapshot]] = {}
        self.unreadable = 0  # of another format version, or damaged

    def take(self, value: bytes) -> None:
        part = _decoded(value)
        if part is None:
            self.unreadable += 1
            return
        if (part.group, part.partition, part.lineage) != self._wanted:
            return
        if part.version != FORMAT_VERSION:
            self.unreadable += 1
            return
        parts = self._parts.setdefault((part.venue, part.product_id), {})
        if any(other.offset != part.offset for other in parts.values()):
            parts.clear()
        parts[part.part] = part

    def complete(self, end: int) -> list[Snapshot]:
        """Those as of `end` or an earlier offset."""
        return [
            msgspec.structs.replace(parts[0], state=b"".join(parts[number].state for number in range(parts[0].parts)))
            for parts in self._parts.values()
            if 0 in parts and parts[0].offset <= end and set(range(parts[0].parts)) <= parts.keys()
        ]
