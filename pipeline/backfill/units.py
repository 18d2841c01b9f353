"""Recordings in parts that can be read independently.

A decoder knows its connection only, so recordings can be parted where a connection begins. A decoder takes a
single thing over from an earlier connection: the products that it saw. Each gets a gap before its first tick, which
an engine that begins there does not need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.archive import read_messages, recordings_in_order

FILES_IN_BLOCK = 16  # to look for connections in; the file after a block is read twice
DAY_NS = 86_400 * 1_000_000_000
NO_TIME_NS = 2**63


@dataclass(frozen=True, slots=True)
class Recording:
    path: Path
    first_time_ns: int  # NO_TIME_NS where no message says
    venue: str = "coinbase"


@dataclass(frozen=True, slots=True)
class Unit:
    """Recordings that follow each other, the first of which begins a connection."""

    number: int
    recordings: tuple[Recording, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(recording.path for recording in self.recordings)

    @property
    def name(self) -> str:
        first_ns = self.recordings[0].first_time_ns
        if first_ns == NO_TIME_NS:
            return str(self.recordings[0].path)
        return f"{datetime.fromtimestamp(first_ns // 10**9, UTC):%Y-%m-%d %H:%M:%S}"


def recordings(paths: Sequence[Path]) -> list[Recording]:
    """In the order of the stream. Raises InputError for a path that cannot be read."""
    return [Recording(file.path.absolute(), file.first_time_ns, file.feed.venue) for file in recordings_in_order(paths)]


def blocks(found: Sequence[Recording]) -> list[tuple[Path, ...]]:
    """Files of one exchange to look for connections in: each but the first is the second or a later one of a block."""
    return [
        tuple(recording.path for recording in files[start : start + FILES_IN_BLOCK + 1])
        for files in _by_venue(found)
        for start in range(0, max(len(files) - 1, 1), FILES_IN_BLOCK)
    ]


def connections_in(block: Sequence[Path]) -> frozenset[Path]:
    """The files of a block whose first message begins a connection, as far as the block shows it.

    Messages without a number that begin nothing do not count. The block's first file with a message that counts has
    nothing before it to compare with, so it is not among the files returned. Raises InputError where a file cannot be
    read.
    """
    begins: dict[str, bool] = {}
    for message in read_messages(block):
        if message.sequence_num is not None or message.starts_connection:
            begins.setdefault(message.source.rpartition(":")[0], message.starts_connection)
    return frozenset(Path(name) for name in list(begins)[1:] if begins[name])


def units(found: Sequence[Recording], beginning: frozenset[Path]) -> list[Unit]:
    """Parts recordings where a connection begins on another day than the part.

    beginning: the files at whose start a connection begins.
    """
    parts: list[list[Recording]] = []
    for files in _by_venue(found):
        first = len(parts)
        for recording in files:
            day = recording.first_time_ns // DAY_NS
            if len(parts) > first and (recording.path not in beginning or parts[-1][0].first_time_ns // DAY_NS == day):
                parts[-1].append(recording)
            else:
                parts.append([recording])
    return [Unit(number, tuple(part)) for number, part in enumerate(parts)]


def whole(found: Sequence[Recording]) -> list[Unit]:
    """One part per exchange, for gaps by silence: a product's last tick may be in any recording before."""
    return [Unit(number, tuple(files)) for number, files in enumerate(_by_venue(found))]


def flat_unit(paths: Sequence[Path]) -> list[Unit]:
    """All flat recordings as one part: their rows carry no connection, so gaps are by silence."""
    return [Unit(0, tuple(Recording(path.absolute(), NO_TIME_NS) for path in paths))]


def _by_venue(found: Sequence[Recording]) -> list[list[Recording]]:
    """Each exchange has decoders of its own, so its connections end at its own files only."""
    files: dict[str, list[Recording]] = {}
    for recording in found:
        files.setdefault(recording.venue, []).append(recording)
    return list(files.values())
