"""Recordings: archives of the exchange's messages, and flat files with one tick per row.

Archives are NDJSON, plain or gzipped. `messages` reads the exchange's messages of an archive, `reader` decodes
recordings of every format into records, `writer` writes archives.
"""

from pipeline.archive.messages import Message, read_messages, recordings_in_order
from pipeline.archive.paths import SUFFIXES, expand_paths, latest_archive
from pipeline.archive.reader import (
    DEFAULT_OPTIONS,
    ReadOptions,
    RecordingFormat,
    describe,
    read_archive,
    require_messages,
)
from pipeline.archive.upkeep import ArchivePolicy
from pipeline.archive.writer import ArchiveWriter

__all__ = [
    "DEFAULT_OPTIONS",
    "SUFFIXES",
    "ArchivePolicy",
    "ArchiveWriter",
    "Message",
    "ReadOptions",
    "RecordingFormat",
    "describe",
    "expand_paths",
    "latest_archive",
    "read_archive",
    "read_messages",
    "recordings_in_order",
    "require_messages",
]
