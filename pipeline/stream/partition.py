"""The worker's state of a partition of ticks.raw: the windows of its products, and the data for a restart.

A core: it takes messages and returns an outcome. It knows no other partition, so a rebalance moves it as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.schema import FeatureSchema
from pipeline.features.columns import TickColumns, VenueProductCodes, sound
from pipeline.features.engine import FeatureBatch, FeatureEngine, Status
from pipeline.features.time_rule import Refusal, TimeRule
from pipeline.records import NOT_DECODED, DeadReason, Gap, LateReason, Record, Tick, decode_record
from pipeline.stream.marker import FORMAT_VERSION as MARKER_VERSION
from pipeline.stream.marker import Marker
from pipeline.stream.snapshots import FORMAT_VERSION as SNAPSHOT_VERSION
from pipeline.stream.snapshots import Snapshot

T = TypeVar("T")

# A restart reads at most about so many records again: half a second of work.
MAX_REPLAY_RECORDS = 50_000
# Bounds what snapshots add to one transaction.
MAX_SNAPSHOT_BYTES = 4_000_000

_LATE_REASONS: dict[int, LateReason] = {Status.JUMPED_BACK: "time_jumped_back", Status.REPEATED: "repeated"}


class RawMessage(Protocol):
    """The parts of a Kafka message that a partition reads."""

    def value(self) -> bytes | None: ...
    def offset(self) -> int | None: ...


@dataclass(slots=True)
class Outcome:
    """The result of a batch. Each message is in exactly one of ticks, late, dead and gaps."""

    columns: TickColumns  # ticks with features
    offsets: NDArray[np.int64]  # (n,) of those ticks
    features: FeatureBatch  # (n,) rows
    late: list[tuple[LateReason, int, Tick]] = field(default_factory=list)  # reason, offset, tick
    dead: list[tuple[DeadReason, str, int, bytes]] = field(default_factory=list)  # reason, detail, offset, message
    gaps: list[str] = field(default_factory=list)  # reasons; also of gaps that the time rule inserts


class Partition:
    """number: of the partition. max_future_ns: see TimeRule. lineage: see Marker."""

    def __init__(
        self, number: int, schema: FeatureSchema, max_future_ns: int, lineage: str, snapshot_partition: int
    ) -> None:
        self.number = number
        self.snapshot_partition = snapshot_partition  # of the topic of snapshots
        self.lineage = lineage
        self.next_offset = 0
        self.broken_at = 0  # see Marker
        self.codes = VenueProductCodes()
        self._engine = FeatureEngine(schema)
        self._rule = TimeRule(max_future_ns)
        # Product code -> offset of its first record that no snapshot holds. In the order of those offsets.
        self._changed: dict[int, int] = {}
        self._due_before = 0
        self._known_until: dict[int, int] = {}  # product code -> offset of the snapshot it was restored from
        self._snapshotted: set[int] = set()  # codes of products with a snapshot of this lineage

    def marker(self, owed_from: int | None, owed_since_ns: int) -> Marker:
        replay_from = next(iter(self._changed.values()), self.next_offset)
        return Marker(
            MARKER_VERSION,
            self.lineage,
            replay_from,
            self.broken_at,
            owed_from,
            owed_since_ns,
            self.snapshot_partition,
            len(self._snapshotted),
        )

    def absorb(self, messages: Sequence[RawMessage]) -> Outcome:
        """Takes the partition's next messages, in order."""
        outcome = self._judged(messages)
        # Several checks contribute. The order is that of the topic, for any cut of the messages into batches.
        outcome.late.sort(key=lambda late: late[1])
        outcome.dead.sort(key=lambda dead: dead[2])
        return outcome

    def _judged(self, messages: Sequence[RawMessage]) -> Outcome:
        outcome = Outcome(*_nothing(self._engine.schema))
        records, kept = self._decode(messages, outcome)
        self.next_offset = (messages[-1].offset() or 0) + 1
        if not records:
            return outcome
        columns = TickColumns.from_records(records, self.codes)
        usable = sound(columns)
        if not usable.all():
            for i in np.flatnonzero(~usable).tolist():
                self._bury(outcome, *_explain(records[i]), kept[i])
            records, kept, columns = _chosen(records, usable), _chosen(kept, usable), columns.select(usable)
        offsets = np.array([message.offset() for message in kept], np.int64)
        if self._known_until:
            news = self._news(columns, offsets)
            records, kept, columns = _chosen(records, news), _chosen(kept, news), columns.select(news)
            offsets = offsets[news]
        if not records:
            return outcome
        self._note_changes(columns, offsets)
        last_ns = self._engine.last_times_ns(columns.product)
        if not self._rule.holds(columns, last_ns):
            records, kept, columns = self._apply_rule(records, kept, columns, last_ns, outcome)
            offsets = np.array([message.offset() for message in kept], np.int64)
        batch = self._engine.update(columns)
        used = batch.status == Status.OK
        if not used.all():
            self._set_aside(records, offsets, batch.status, outcome)
            columns, offsets = columns.select(used), offsets[used]
            batch = FeatureBatch(batch.status[used], batch.warm[used], batch.values[used])
        outcome.columns, outcome.offsets, outcome.features = columns, offsets, batch
        return outcome

    def break_at(self, offset: int) -> None:
        """A gap in every product: records before `offset` were lost."""
        self.broken_at = offset
        self.next_offset = max(self.next_offset, offset)
        for code in self.codes.values():
            if self._known_until.get(code, -1) < offset:
                self._engine.restore(code, b"")
                self._rule.suspects.pop(code, None)

    def load(self, snapshots: Sequence[Snapshot]) -> None:
        """Takes over the state of each product. Raises ValueError for states of another schema or format."""
        for snapshot in snapshots:
            code = self.codes[snapshot.venue, snapshot.product_id]
            broken = snapshot.offset < self.broken_at
            self._engine.restore(code, b"" if broken else snapshot.state)
            if snapshot.suspect is not None and not broken:
                self._rule.suspects[code] = snapshot.suspect
            self._known_until[code] = snapshot.offset
            self._snapshotted.add(code)

    def loaded(self) -> None:
        """Ends the replay that follows `load`: records from here on are new to every product."""
        self._known_until.clear()

    def mark_due(self) -> None:
        """Products that changed until now are due for a snapshot, however little changed."""
        self._due_before = self.next_offset

    def due_snapshots(self, group: str) -> list[Snapshot]:
        """States to write with the next commit: products marked as due, and those whose changes lie so far back that
        a restart would read more than MAX_REPLAY_RECORDS again. The longest unwritten come first.
        """
        due_before = max(self._due_before, self.next_offset - MAX_REPLAY_RECORDS)
        taken: list[Snapshot] = []
        size = 0
        if next(iter(self._changed.values()), due_before) >= due_before:
            return taken
        names = list(self.codes)
        for code, since in list(self._changed.items()):
            if since >= due_before or size > MAX_SNAPSHOT_BYTES:
                break
            venue, product_id = names[code]
            snapshot = Snapshot(
                version=SNAPSHOT_VERSION,
                group=group,
                partition=self.number,
                lineage=self.lineage,
                venue=venue,
                product_id=product_id,
                offset=self.next_offset,
                suspect=self._rule.suspects.get(code),
                state=self._engine.state(code),
            )
            taken.append(snapshot)
            size += len(snapshot.state)
        return taken

    def snapshots_written(self, snapshots: Sequence[Snapshot]) -> None:
        """Call once they are sent, before the next messages are absorbed."""
        for snapshot in snapshots:
            code = self.codes[snapshot.venue, snapshot.product_id]
            del self._changed[code]
            self._snapshotted.add(code)

    def _decode(self, messages: Sequence[RawMessage], outcome: Outcome) -> tuple[list[Record], list[RawMessage]]:
        try:
            return [decode_record(message.value() or b"") for message in messages], list(messages)
        except NOT_DECODED:
            pass  # a message is damaged: decode each by itself
        records, kept = [], []
        for message in messages:
            try:
                records.append(decode_record(message.value() or b""))
                kept.append(message)
            except NOT_DECODED as error:
                shaped = isinstance(error, msgspec.ValidationError)
                self._bury(outcome, "wrong_shape" if shaped else "not_json", str(error), message)
        return records, kept

    def _bury(self, outcome: Outcome, reason: DeadReason, detail: str, message: RawMessage) -> None:
        offset = message.offset() or 0
        outcome.dead.append((reason, detail, offset, message.value() or b""))

    def _news(self, columns: TickColumns, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which records (n,) the restored snapshots do not hold yet."""
        known = [self._known_until.get(code, self.broken_at) for code in columns.product.tolist()]
        news: NDArray[np.bool_] = offsets >= np.maximum(known, self.broken_at)
        return news

    def _note_changes(self, columns: TickColumns, offsets: NDArray[np.int64]) -> None:
        codes = columns.product.tolist()
        new = set(codes).difference(self._changed)
        if new:
            for index in sorted(codes.index(code) for code in new):
                self._changed[codes[index]] = int(offsets[index])

    def _apply_rule(
        self,
        records: list[Record],
        kept: list[RawMessage],
        columns: TickColumns,
        last_ns: NDArray[np.int64],
        outcome: Outcome,
    ) -> tuple[list[Record], list[RawMessage], TickColumns]:
        left, refusals = self._rule.applied(records, columns, last_ns)
        for refusal in refusals:
            self._refuse(refusal, records[refusal.index], kept[refusal.index], outcome)
        used = [record for _, record in left]
        return used, [kept[index] for index, _ in left], TickColumns.from_records(used, self.codes)

    def _refuse(self, refusal: Refusal, record: Record, message: RawMessage, outcome: Outcome) -> None:
        if refusal.reason is None:
            assert isinstance(record, Tick)
            outcome.late.append(("time_jumped_back", message.offset() or 0, record))
        else:
            self._bury(outcome, refusal.reason, refusal.detail, message)

    def _set_aside(
        self, records: list[Record], offsets: NDArray[np.int64], status: NDArray[np.uint8], outcome: Outcome
    ) -> None:
        for i in np.flatnonzero(status != Status.OK).tolist():
            record = records[i]
            if isinstance(record, Gap):
                outcome.gaps.append(record.reason)
            else:
                outcome.late.append((_LATE_REASONS[int(status[i])], int(offsets[i]), record))


def _nothing(schema: FeatureSchema) -> tuple[TickColumns, NDArray[np.int64], FeatureBatch]:
    values = np.zeros((0, len(schema)))
    none = FeatureBatch(np.zeros(0, np.uint8), np.zeros(0, np.bool_), values)
    return TickColumns.from_records([], VenueProductCodes()), np.zeros(0, np.int64), none


def _chosen(items: Sequence[T], mask: NDArray[np.bool_]) -> list[T]:
    return [items[i] for i in np.flatnonzero(mask).tolist()]


def _explain(record: Record) -> tuple[DeadReason, str]:
    values = {name: float(getattr(record, name)) for name in ("price", "bid", "ask", "bid_quantity", "ask_quantity")}
    for name, value in values.items():
        if not math.isfinite(value):
            return "not_finite", f"{name}: expected a finite number, got {value}"
        if value < 0 or (value == 0 and not name.endswith("quantity")):
            return "not_positive", f"{name}: expected a positive number, got {value}"
    return "crossed_quote", f"bid: expected at most the ask {values['ask']}, got {values['bid']}"
