"""A message on its way through a decoder, and its origin."""

from __future__ import annotations

from pipeline.records import DeadLetter, DeadReason


class Message:
    """time_ns: its event time, None if it has none."""

    __slots__ = ("ingest_time_ns", "raw", "source", "time_ns")

    def __init__(self, raw: bytes, ingest_time_ns: int, source: str, time_ns: int | None) -> None:
        self.raw = raw
        self.ingest_time_ns = ingest_time_ns
        self.source = source
        self.time_ns = time_ns

    def dead(self, reason: DeadReason, detail: str) -> DeadLetter:
        return DeadLetter.of(reason, detail, self.source, self.raw)
