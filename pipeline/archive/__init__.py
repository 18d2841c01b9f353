"""Recordings of the exchange's messages: NDJSON, plain or gzipped."""

from pipeline.archive.messages import Message, read_archive, read_messages
from pipeline.archive.paths import SUFFIXES, expand_paths, latest_archive
from pipeline.archive.upkeep import ArchivePolicy
from pipeline.archive.writer import ArchiveWriter

__all__ = [
    "SUFFIXES",
    "ArchivePolicy",
    "ArchiveWriter",
    "Message",
    "expand_paths",
    "latest_archive",
    "read_archive",
    "read_messages",
]
