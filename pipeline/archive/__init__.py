"""Recordings of the exchange's messages: NDJSON, plain or gzipped."""

from pipeline.archive.messages import Message, read_archive, read_messages, recordings_in_order
from pipeline.archive.paths import SUFFIXES, expand_paths, latest_archive
from pipeline.archive.writer import ArchiveWriter

__all__ = [
    "SUFFIXES",
    "ArchiveWriter",
    "Message",
    "expand_paths",
    "latest_archive",
    "read_archive",
    "read_messages",
    "recordings_in_order",
]
