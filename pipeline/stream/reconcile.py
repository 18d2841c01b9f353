"""Whether every offset of ticks.raw is accounted for: a core that takes records and keeps flags per offset.

Each record of ticks.raw is a gap, or has exactly one feature row, late tick or dead letter. Each warm row has exactly
one prediction, except for rows whose prediction the worker still owes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from pipeline.records import NOT_DECODED, Gap, decode_record
from volcast.v1 import FeatureRow, Prediction

FIRST_RECORDS = 4096
# A row may come before its record, but not before so many: a larger source offset is damaged. It bounds memory too.
MAX_AHEAD = 20_000_000
MAX_NAMED = 20  # faults that are named one by one; all are counted
# Rows of a batch, and predictions of a frame, are on their topics product by product. So the first row that is left
# after retention may be of a later record than one that was deleted, by at most a batch or frame.
OUT_OF_ORDER_ROWS = 10_000

RAW, GAP, ROW, WARM, PREDICTED, ASIDE, REPEATED = (1 << bit for bit in range(7))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the worker's group is in a partition."""

    committed: int
    owed_from: int | None = None  # see Marker


@dataclass(slots=True)
class Account:
    """The result: counts of offsets of ticks.raw."""

    records: int = 0  # that the worker has committed
    rows: int = 0
    predictions: int = 0
    set_aside: int = 0  # on ticks.late or ticks.dead
    gaps: int = 0
    owed: int = 0  # warm rows whose prediction follows
    not_judged: int = 0  # records whose rows or predictions Kafka may have deleted
    faults: Counter[str] = field(default_factory=Counter)  # by kind
    named: list[str] = field(default_factory=list)  # the first faults, such as "ticks.raw[0]@17: no feature row"


class _Sourced(msgspec.Struct):
    """The field that records of ticks.late and ticks.dead share."""

    source: str


_decode_source = msgspec.json.Decoder(_Sourced).decode


class _Flags:
    """Flags of the offsets from `first` on."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.ends = first  # the offset after the last record of ticks.raw
        self.flags: NDArray[np.uint8] = np.zeros(FIRST_RECORDS, np.uint8)

    def add(self, offset: int, flag: int) -> bool:
        """False for an offset that cannot be the source of a row."""
        index = offset - self.first
        if flag & RAW:
            self.ends = max(self.ends, offset + 1)
        elif offset >= self.ends + MAX_AHEAD:
            return False
        if index < 0:
            return True
        if index >= len(self.flags):
            self.flags = np.concatenate([self.flags, np.zeros(max(len(self.flags), index + 1), np.uint8)])
        repeated = REPEATED if self.flags[index] & flag and flag != WARM else 0
        self.flags[index] |= flag | repeated
        return True


class Reconciliation:
    """topic: the name of ticks.raw. first: partition -> offset from which on its records are shown.

    Rows and predictions of earlier offsets are left out of account.

    repeats: rows, predictions and records set aside may repeat (`worker.guarantee: at_least_once`).

    shortened_rows, shortened_predictions: partitions of ticks.features and predictions whose first records Kafka has
    deleted. Records of ticks.raw before the first that is left there are not judged.
    """

    def __init__(
        self,
        topic: str,
        first: dict[int, int],
        *,
        shortened_rows: Collection[int] = (),
        shortened_predictions: Collection[int] = (),
        repeats: bool = False,
    ) -> None:
        self._repeats = repeats
        self._impossible = 0  # records whose source cannot be a record of the topic
        self._shortened_rows = shortened_rows
        self._shortened_predictions = shortened_predictions
        # Topic role, its partition and a partition of ticks.raw -> the lowest offset of ticks.raw that is left there.
        self._lowest: dict[tuple[str, int, int], int] = {}
        self._topic = topic
        self._source = re.compile(re.escape(topic) + r"\[(\d+)\]@(\d+)")
        self._partitions = {number: _Flags(offset) for number, offset in first.items()}

    @property
    def first(self) -> dict[int, int]:
        return {number: flags.first for number, flags in self._partitions.items()}

    def raw(self, partition: int, offset: int, gap: bool) -> None:
        self._add(partition, offset, RAW | GAP if gap else RAW)

    def row(self, partition: int, offset: int, warm: bool) -> None:
        self._add(partition, offset, ROW)
        if warm:
            self._add(partition, offset, WARM)

    def prediction(self, partition: int, offset: int) -> None:
        self._add(partition, offset, PREDICTED)

    def aside(self, source: str) -> None:
        """A record of ticks.late or ticks.dead. Records of ingest name no offset and are left out of account."""
        match = self._source.fullmatch(source)
        if match is not None:
            self._add(int(match[1]), int(match[2]), ASIDE)

    # The same from messages. Inspection reports the unreadable ones.

    def take_raw(self, value: bytes, partition: int, offset: int) -> None:
        try:
            self.raw(partition, offset, isinstance(decode_record(value), Gap))
        except NOT_DECODED:
            self.raw(partition, offset, gap=False)

    def take_row(self, value: bytes, partition: int, offset: int) -> None:
        with suppress(DecodeError):
            row = FeatureRow.FromString(value)
            if row.venue:  # else of a version that wrote no source
                if partition in self._shortened_rows:
                    self._note_lowest("features", partition, row.source_partition, row.source_offset)
                self.row(row.source_partition, row.source_offset, row.warm)

    def take_prediction(self, value: bytes, partition: int, offset: int) -> None:
        with suppress(DecodeError):
            prediction = Prediction.FromString(value)
            if prediction.venue:
                if partition in self._shortened_predictions:
                    self._note_lowest("predictions", partition, prediction.source_partition, prediction.source_offset)
                self.prediction(prediction.source_partition, prediction.source_offset)

    def take_aside(self, value: bytes, partition: int, offset: int) -> None:
        with suppress(*NOT_DECODED):
            self.aside(_decode_source(value).source)

    def account(self, progress: dict[int, Progress]) -> Account:
        """Judges the records that the worker has committed."""
        account = Account()
        for number, flags in sorted(self._partitions.items()):
            if number in progress:
                self._judge(number, flags, progress[number], account)
        if self._impossible:
            account.faults["a source offset far beyond ticks.raw"] = self._impossible
        return account

    def _note_lowest(self, role: str, partition: int, source_partition: int, source_offset: int) -> None:
        key = role, partition, source_partition
        self._lowest[key] = min(source_offset, self._lowest.get(key, source_offset))

    def _judged_from(self, number: int, first: int) -> int:
        lowest = [offset for (_, _, source), offset in self._lowest.items() if source == number]
        return max([first, *(offset + OUT_OF_ORDER_ROWS for offset in lowest)])

    def _add(self, partition: int, offset: int, flag: int) -> None:
        if partition in self._partitions and not self._partitions[partition].add(offset, flag):
            self._impossible += 1

    def _judge(self, number: int, kept: _Flags, progress: Progress, account: Account) -> None:
        first = self._judged_from(number, kept.first)
        flags = kept.flags[first - kept.first : max(0, progress.committed - kept.first)]
        account.not_judged += int(np.count_nonzero(kept.flags[: first - kept.first] & RAW))

        def has(flag: int) -> NDArray[np.bool_]:
            marked: NDArray[np.bool_] = (flags & flag) != 0
            return marked

        raw, gap, row, aside = has(RAW), has(GAP), has(ROW), has(ASIDE)
        account.records += int(raw.sum())
        account.gaps += int(gap.sum())
        account.rows += int(row.sum())
        account.set_aside += int(aside.sum())
        account.predictions += int(has(PREDICTED).sum())
        unpredicted = has(WARM) & ~has(PREDICTED)
        owed = np.zeros(len(flags), np.bool_)
        if progress.owed_from is not None:
            owed[max(0, progress.owed_from - first) :] = True
        account.owed += int((unpredicted & owed).sum())
        outcomes = gap.astype(np.int8) + row + aside
        for fault, where in (
            ("neither feature row nor late, dead or gap", raw & (outcomes == 0)),
            ("more than one of feature row, late, dead and gap", outcomes > 1),
            ("a record twice", has(REPEATED) & (not self._repeats)),
            ("a feature row, late tick or dead letter without a record", ~raw & (row | aside)),
            ("a warm feature row without a prediction", unpredicted & ~owed),
            ("a prediction without a warm feature row", has(PREDICTED) & ~has(WARM)),
        ):
            offsets = first + np.flatnonzero(where)
            if len(offsets):
                account.faults[fault] += len(offsets)
                room = MAX_NAMED - len(account.named)
                account.named += [f"{self._topic}[{number}]@{offset}: {fault}" for offset in offsets[:room].tolist()]
