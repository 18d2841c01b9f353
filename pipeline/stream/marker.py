"""The part of a commit that the next owner of the partition needs beside the offset.

Kafka stores a short text, the metadata, with each committed offset, so the marker is committed in the transaction
that commits the offset. It is lost only with the offset.
"""

from __future__ import annotations

import msgspec

from pipeline.records import Count

FORMAT_VERSION = 1


class Marker(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of one partition as of the committed offset."""

    version: int
    # Random name of an unbroken series of commits. Snapshots of another lineage are void: they are older than a
    # deliberate reset of the offsets or than the topic itself.
    lineage: str
    replay_from: Count  # ticks.raw from this offset on has to be read again; before it the snapshots are complete
    broken_at: Count = 0  # snapshots of earlier offsets are void: retention deleted records before this offset
    owed_from: Count | None = None  # ticks at and after this offset have features and no predictions yet
    owed_since_ns: Count = 0  # when the features of the first of them were published, wall clock
    # Where the snapshots are, and how many products have a snapshot. If there are fewer, the state is incomplete.
    snapshot_partition: int = -1  # -1: not known, since an older version committed
    snapshot_products: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Marker).decode


def to_metadata(marker: Marker) -> str:
    return _encode(marker).decode()


def from_metadata(metadata: str | None, committed: int = 2**63 - 1) -> Marker | None:
    """The marker beside the offset `committed`.

    None for an offset that another program, or an older version, has committed, and for a marker that cannot be one of
    this offset.
    """
    try:
        marker = _decode((metadata or "").encode())
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return None
    if marker.version != FORMAT_VERSION or max(marker.replay_from, marker.broken_at, marker.owed_from or 0) > committed:
        return None
    return marker
