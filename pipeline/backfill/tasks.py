"""The work of a worker: reads a unit of recordings, computes a day of a product and writes it.

Each task is a function of its arguments and of files that do not change, and replaces its file in one step. So a
task may run again, or twice at the same time, and leaves the same.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.schema import FeatureSchema
from pipeline.archive import DEFAULT_OPTIONS, ReadOptions, read_archive
from pipeline.backfill.days import Stretch, stretches
from pipeline.backfill.units import Unit
from pipeline.features.columns import ProductCodes, TickColumns
from pipeline.features.engine import FeatureBatch, FeatureEngine, Status, reach_ns
from pipeline.features.table import CHUNK_RECORDS, LATE_REASONS, split
from pipeline.feed.advice import GapWatch
from pipeline.parquet import FeatureParquetWriter
from pipeline.records import DeadLetter, Gap, LateTick, Tick, encode

EPOCH = date(1970, 1, 1)
REFUSED = "_refused"  # readers of Parquet folders skip names that begin with an underscore


@dataclass(frozen=True, slots=True)
class ProductDay:
    """The stretches of a day among the product's records of one unit."""

    unit: int
    product_id: str
    day: int  # since 1970-01-01
    stretches: tuple[Stretch, ...]
    venue: str = "coinbase"
    label: str = ""  # the product's name in the output; "": product_id

    @property
    def written_as(self) -> str:
        return self.label or self.product_id

    @property
    def name(self) -> str:
        return f"{self.written_as} {EPOCH + timedelta(days=self.day)}, part {self.unit}"

    @property
    def file_stem(self) -> str:
        """Names in their order give each product's days, and the rows of a day in the order of the stream."""
        return f"{quote(self.written_as, safe='')}_{EPOCH + timedelta(days=self.day)}_{self.unit:05d}"


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """Facts about a unit, without its ticks."""

    days: list[ProductDay]
    ticks: int
    gaps: Counter[str]
    late: Counter[str]
    dead: Counter[str]
    refused_files: tuple[str, ...]
    advice: str = ""  # why few rows are warm, and what to do
    first_dead: DeadLetter | None = None


@dataclass(frozen=True, slots=True)
class UnitTicks:
    """The ticks of a unit by the product's name in the output, each product's in the order of the stream."""

    by_product: dict[str, TickColumns]
    facts: UnitFacts


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings of all tasks.

    blank: features that are NaN in each row, since the recordings lack their columns.
    """

    schema: FeatureSchema
    out: Path
    options: ReadOptions = DEFAULT_OPTIONS
    blank: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DayDone:
    rows: int
    not_warm: int
    late: Counter[str]
    refused_files: tuple[str, ...]


def read_unit(unit: Unit, plan: Plan) -> UnitTicks:
    """Raises InputError for a recording that cannot be read, or if the output cannot be written."""
    codes, parts, gaps = ProductCodes(), [], Counter[str]()
    refused: list[LateTick | DeadLetter] = []
    watch = GapWatch()
    venues: dict[str, tuple[str, str]] = {}  # name in the output -> venue and product
    records = watch.watch(read_archive(unit.paths, plan.options))
    while chunk := list(islice(records, CHUNK_RECORDS)):
        accepted, not_accepted = split(chunk)
        refused += not_accepted
        gaps.update(record.reason for record in accepted if type(record) is Gap)
        parts.append(TickColumns.from_records(accepted, codes))
        for venue, product in {(record.venue, record.product_id) for record in accepted}:
            venues[codes.name_of(venue, product)] = venue, product
    by_product = _by_product(parts, codes.names)
    late = [record for record in refused if isinstance(record, LateTick)]
    dead = [record for record in refused if isinstance(record, DeadLetter)]
    written = _write_refused(plan.out, f"unit-{unit.number:05d}.late", late)
    written += _write_refused(plan.out, f"unit-{unit.number:05d}.dead", dead)
    history_ns = reach_ns(plan.schema)
    facts = UnitFacts(
        days=[
            ProductDay(unit.number, venues[name][1], day, found, venues[name][0], name)
            for name, ticks in by_product.items()
            for day, found in _days(ticks, history_ns)
        ],
        ticks=sum(map(len, parts)) - gaps.total(),
        gaps=gaps,
        late=Counter(record.reason for record in late),
        dead=Counter(record.reason for record in dead),
        refused_files=written,
        advice=watch.advice(),
        first_dead=dead[0] if dead else None,
    )
    return UnitTicks(by_product, facts)


def facts_of(ticks: UnitTicks) -> UnitFacts:
    return ticks.facts


def compute_day(ticks: UnitTicks, day: ProductDay, plan: Plan) -> DayDone:
    """Writes the features of a product's day. Raises InputError if the disk refuses."""
    schema, out = plan.schema, plan.out
    blank = [schema.names.index(name) for name in plan.blank]
    mine = ticks.by_product[day.written_as]
    rows = not_warm = 0
    late: list[LateTick] = []
    with FeatureParquetWriter(out / f"{day.file_stem}.parquet", schema=schema) as writer:
        for stretch in day.stretches:
            engine = FeatureEngine(schema)
            for start in range(stretch.first, stretch.stop, CHUNK_RECORDS):
                part = mine.part(start, min(start + CHUNK_RECORDS, stretch.stop))
                batch = engine.update(part)
                wanted = np.arange(start, start + len(part)) >= stretch.start
                used = (batch.status == Status.OK) & wanted
                batch.values[:, blank] = np.nan
                names = [day.written_as] * int(np.count_nonzero(used))
                writer.write(names, part.select(used), batch.values[used], batch.warm[used])
                rows += len(names)
                not_warm += len(names) - int(np.count_nonzero(batch.warm[used]))
                late += _late_ticks(day, part, batch, wanted, start)
        if not rows:
            writer.abort()
    written = _write_refused(out, f"{day.file_stem}.late", late)
    return DayDone(rows, not_warm, Counter(record.reason for record in late), written)


def _by_product(parts: Sequence[TickColumns], names: Sequence[str]) -> dict[str, TickColumns]:
    if not parts:
        return {}
    joined = TickColumns.joined(parts)
    order = np.argsort(joined.product, kind="stable")
    ordered = joined.select(order)
    edges = np.searchsorted(ordered.product, np.arange(len(names) + 1)).tolist()
    ordered.product[:] = 0
    return {name: ordered.part(edges[code], edges[code + 1]) for code, name in enumerate(names)}


def _days(ticks: TickColumns, history_ns: int) -> Iterable[tuple[int, tuple[Stretch, ...]]]:
    """The days of a product's ticks, each with its stretches."""
    by_day: dict[int, list[Stretch]] = {}
    for stretch in stretches(ticks.kind, ticks.event_time_ns, history_ns):
        by_day.setdefault(stretch.day, []).append(stretch)
    return [(day, tuple(parts)) for day, parts in sorted(by_day.items())]


def _late_ticks(
    day: ProductDay, part: TickColumns, batch: FeatureBatch, wanted: NDArray[np.bool_], start: int
) -> list[LateTick]:
    late = []
    for index in np.flatnonzero((batch.status >= Status.JUMPED_BACK) & wanted).tolist():
        values = {name: getattr(part, name)[index].item() for name in _VALUES}
        source = f"{day.written_as} record {start + index + 1} of unit {day.unit:05d}"
        tick = Tick(product_id=day.product_id, venue=day.venue, **values)
        late.append(LateTick(LATE_REASONS[Status(batch.status[index])], source, tick))
    return late


_VALUES = (
    "event_time_ns", "ingest_time_ns", "sequence_num", "price", "bid", "ask", "bid_quantity", "ask_quantity",
)  # fmt: skip


def _write_refused(out: Path, stem: str, records: Sequence[LateTick | DeadLetter]) -> tuple[str, ...]:
    if not records:
        return ()
    path = out / REFUSED / f"{stem}.ndjson"
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(b"".join(encode(record) + b"\n" for record in records))
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    return (f"{REFUSED}/{path.name}",)
