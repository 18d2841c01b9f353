"""The offline path: the records of an archive through the same engine, chunk by chunk, with every loss counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from common.schema import CORE_1, FeatureSchema
from pipeline.features.columns import ProductCodes, TickColumns
from pipeline.features.engine import FeatureBatch, FeatureEngine, Status
from pipeline.records import DeadLetter, Gap, LateReason, LateTick, Record, Tick

CHUNK_RECORDS = 65_536

LATE_REASONS: dict[Status, LateReason] = {Status.JUMPED_BACK: "time_jumped_back", Status.REPEATED: "repeated"}


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """n feature rows as columns, in the order of their ticks."""

    product_ids: list[str]
    event_time_ns: NDArray[np.int64]  # (n,)
    ingest_time_ns: NDArray[np.int64]  # (n,)
    sequence_num: NDArray[np.int64]  # (n,)
    warm: NDArray[np.bool_]  # (n,)
    values: NDArray[np.float64]  # (n, features) in the schema's order; NaN where not warm
    schema: FeatureSchema = CORE_1

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.product_ids), len(self.schema)):
            expected = (len(self.product_ids), len(self.schema))
            raise ValueError(
                f"rows of {self.schema.name}: expected values of shape {expected}, got {self.values.shape}"
            )

    def __len__(self) -> int:
        return len(self.product_ids)

    @classmethod
    def joined(cls, parts: Iterable[FeatureRows], schema: FeatureSchema | None = None) -> FeatureRows:
        """All rows one after another, of `schema` or that of the first. Raises ValueError where some differ."""
        chunks = list(parts)
        schema = schema or (chunks[0].schema if chunks else CORE_1)
        for chunk in chunks:
            if chunk.schema != schema:
                raise ValueError(f"rows of {chunk.schema.name} among rows of {schema.name}")
        chunks.append(cls.none(schema))
        return cls(
            [product_id for chunk in chunks for product_id in chunk.product_ids],
            np.concatenate([chunk.event_time_ns for chunk in chunks]),
            np.concatenate([chunk.ingest_time_ns for chunk in chunks]),
            np.concatenate([chunk.sequence_num for chunk in chunks]),
            np.concatenate([chunk.warm for chunk in chunks]),
            np.concatenate([chunk.values for chunk in chunks]),
            schema,
        )

    @classmethod
    def none(cls, schema: FeatureSchema = CORE_1) -> FeatureRows:
        no_ints = np.zeros(0, np.int64)
        return cls([], no_ints, no_ints, no_ints, np.zeros(0, np.bool_), np.zeros((0, len(schema))), schema)


@dataclass(slots=True)
class FeatureCounts:
    """What came in and what became of it: ticks = features + the late of the engine's two reasons."""

    ticks: int = 0
    features: int = 0
    not_warm: int = 0  # of the features
    gaps: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class FeatureChunk:
    rows: FeatureRows
    refused: list[LateTick | DeadLetter]  # in no particular order


@dataclass(frozen=True, slots=True)
class FeatureTable:
    rows: FeatureRows
    counts: FeatureCounts
    refused: list[LateTick | DeadLetter]


def compute_features(
    records: Iterable[Tick | Gap | LateTick | DeadLetter], schema: FeatureSchema = CORE_1
) -> FeatureTable:
    """All feature rows of the records at once; `feature_chunks` for what does not fit into memory."""
    counts = FeatureCounts()
    chunks = list(feature_chunks(records, counts, schema=schema))
    refused = [record for chunk in chunks for record in chunk.refused]
    return FeatureTable(FeatureRows.joined((chunk.rows for chunk in chunks), schema), counts, refused)


def feature_chunks(
    records: Iterable[Tick | Gap | LateTick | DeadLetter],
    counts: FeatureCounts,
    chunk_records: int = CHUNK_RECORDS,
    schema: FeatureSchema = CORE_1,
) -> Iterator[FeatureChunk]:
    """Feature rows, a chunk of records at a time; `counts` is brought up to date with each."""
    engine, codes = FeatureEngine(schema), ProductCodes()
    remaining = iter(records)
    done = 0
    while chunk := list(islice(remaining, chunk_records)):
        accepted, refused = split(chunk)
        ticks = TickColumns.from_records(accepted, codes)
        batch = engine.update(ticks)
        refused += _late_ticks(accepted, batch, done)
        rows = feature_rows(codes, ticks, batch, schema)
        _count(counts, accepted, refused, rows)
        done += len(accepted)
        yield FeatureChunk(rows, refused)


def split(records: list[Tick | Gap | LateTick | DeadLetter]) -> tuple[list[Record], list[LateTick | DeadLetter]]:
    """The records for the engine, and those that it must not see, each in their order."""
    kinds: list[type] = list(map(type, records))
    if kinds.count(Tick) + kinds.count(Gap) == len(kinds):  # nearly always; a look at each record costs 0.5 µs
        return cast(list[Record], records), []
    accepted: list[Record] = [record for record in records if isinstance(record, Tick | Gap)]
    return accepted, [record for record in records if isinstance(record, LateTick | DeadLetter)]


def feature_rows(
    codes: ProductCodes, ticks: TickColumns, batch: FeatureBatch, schema: FeatureSchema = CORE_1
) -> FeatureRows:
    """The rows of the ticks that were used."""
    used: Any = batch.status == Status.OK
    if used.all():
        used = slice(None)  # the arrays are of this batch alone, so the rows may keep them
    return FeatureRows(
        list(map(codes.names.__getitem__, ticks.product[used].tolist())),
        ticks.event_time_ns[used],
        ticks.ingest_time_ns[used],
        ticks.sequence_num[used],
        batch.warm[used],
        batch.values[used],
        schema,
    )


def _late_ticks(records: list[Record], batch: FeatureBatch, done: int) -> list[LateTick]:
    late = []
    for index in np.flatnonzero(batch.status >= Status.JUMPED_BACK).tolist():
        tick = records[index]
        assert isinstance(tick, Tick)
        late.append(LateTick(LATE_REASONS[Status(batch.status[index])], f"record {done + index + 1}", tick))
    return late


def _count(
    counts: FeatureCounts, accepted: list[Record], refused: list[LateTick | DeadLetter], rows: FeatureRows
) -> None:
    gaps = [record.reason for record in accepted if type(record) is Gap]
    counts.ticks += len(accepted) - len(gaps)
    counts.features += len(rows)
    counts.not_warm += len(rows) - int(np.count_nonzero(rows.warm))
    counts.gaps.update(gaps)
    counts.late.update(record.reason for record in refused if isinstance(record, LateTick))
    counts.dead.update(record.reason for record in refused if isinstance(record, DeadLetter))
