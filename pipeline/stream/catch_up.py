"""Publishes the records that a killed ingest had archived and not published: the end of the archive.

The archive is written first, so after kill -9 it may hold messages that were still in the producer's memory. The next
ingest publishes them before anything else, in their place. Then the topic holds the ticks of the archive, in order.
Older holes are left to `volcast replay --missing`.
"""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from common.config import KafkaConfig, Topics
from common.log import get_logger
from pipeline.archive import read_archive
from pipeline.archive.paths import PLAIN_SUFFIX, archive_files
from pipeline.feed.protocol import Result
from pipeline.records import NOT_DECODED, Gap, Record, Tick, decode_record, encode, record_key
from pipeline.stream.backlog import BATCH, BacklogSink
from pipeline.stream.kafka import Sink
from pipeline.stream.missing import PresentTicks, read_values
from pipeline.stream.publish import Publisher

# Of each partition. A killed ingest may have sent a batch of its backlog without noting it.
TOPIC_TAIL_RECORDS = 2 * BATCH
# Of each of the last two archive files: some minutes. A kill loses a second.
ARCHIVE_TAIL_BYTES = 8 * 1024 * 1024
# Beyond so many messages the backlog is not compared with the archive: decoding takes 5 us each.
MAX_COMPARED_BACKLOG = 200_000


class Unpublished(NamedTuple):
    """Records that ticks.raw lacks at its end."""

    first: list[Record]  # go before the backlog on disk
    last: list[Record]  # go behind it


def catch_up(
    kafka: KafkaConfig, archive: Path | None, venue: str, products: Collection[str], sink: Sink | BacklogSink
) -> None:
    """Publishes what an earlier ingest left unpublished. Call before other records are sent.

    products: others are left to their own ingest. Raises UnavailableError if the broker does not answer.
    """
    values = read_values(kafka, TOPIC_TAIL_RECORDS)
    backlog: list[Record] = []
    if isinstance(sink, BacklogSink):
        sink.note_delivered(frozenset(values))
        if sink.waiting > MAX_COMPARED_BACKLOG:
            return
        waiting = (message.value for message in sink.waiting_messages() if message.topic == kafka.topics.raw)
        backlog = [record for value in waiting for record in _decoded(value)]
    if archive is None:
        return
    topic = [record for value in values for record in _decoded(value)]
    keys = {record_key(venue, product_id) for product_id in products}
    found = unpublished(
        _of_keys(archive_tail(archive), keys), PresentTicks(_ticks(topic)), PresentTicks(_ticks(backlog))
    )
    _publish(found, sink, kafka.topics)


def unpublished(records: Iterable[Result], topic: PresentTicks, backlog: PresentTicks) -> Unpublished:
    """The ticks of a recording that follow directly on the last tick of their product on the topic or in the backlog.

    Gaps of the recording between them are included, so windows start anew where they do in the recording.
    """
    found = Unpublished([], [])
    target: dict[str, list[Record]] = {}  # key -> where the ticks behind the last known tick go
    gaps: dict[str, Gap] = {}  # since that tick
    for record in records:
        if isinstance(record, Gap):
            gaps[record_key(record.venue, record.product_id)] = record
        elif isinstance(record, Tick):
            key = record_key(record.venue, record.product_id)
            waits = backlog.holds(record)
            if waits or topic.holds(record):
                gaps.pop(key, None)
                target.pop(key, None)
                if backlog.is_newest(record):
                    target[key] = found.last
                elif topic.is_newest(record) and not waits:
                    target[key] = found.first
            elif key in target:
                if key in gaps:
                    target[key].append(gaps.pop(key))
                target[key].append(record)
    return found


def archive_tail(directory: Path) -> list[Result]:
    """The records at the end of the last two files that no writer has open; rolled and compressed ones are complete."""
    files = [path for path in archive_files(directory) if path.name.endswith(PLAIN_SUFFIX)]
    with tempfile.TemporaryDirectory() as folder:
        ends = [end for path in files[-2:] if (end := _end_of(path, Path(folder))) is not None]
        return list(read_archive(ends)) if ends else []


def _end_of(path: Path, folder: Path) -> Path | None:
    """A file with the header and the last lines of a file. None if a writer has it, or it is gone."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        size = path.stat().st_size
        if size <= ARCHIVE_TAIL_BYTES:
            return path
        header = file.readline()
        file.seek(size - ARCHIVE_TAIL_BYTES)
        file.readline()  # the rest of a line
        end = folder / path.name
        end.write_bytes(header + file.read())
        return end
    return None


def _publish(found: Unpublished, sink: Sink | BacklogSink, topics: Topics) -> None:
    if not found.first and not found.last:
        return
    get_logger().info(
        "publishing what an earlier ingest archived only",
        ticks=sum(isinstance(each, Tick) for each in found.first + found.last),
    )
    if isinstance(sink, BacklogSink) and sink.waiting:
        sink.put_first([(topics.raw, _key(record), encode(record)) for record in found.first])
        Publisher(sink, topics).publish(found.last)
    else:
        Publisher(sink, topics).publish([*found.first, *found.last])


def _key(record: Record) -> bytes:
    return record_key(record.venue, record.product_id).encode()


def _of_keys(records: Iterable[Result], keys: Collection[str]) -> list[Result]:
    return [
        record
        for record in records
        if isinstance(record, Tick | Gap) and record_key(record.venue, record.product_id) in keys
    ]


def _ticks(records: Sequence[Record]) -> list[Tick]:
    return [record for record in records if isinstance(record, Tick)]


def _decoded(value: bytes) -> list[Record]:
    try:
        return [decode_record(value)]
    except NOT_DECODED:
        return []
