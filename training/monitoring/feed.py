"""Records of ticks.raw and predictions, as bytes, to the join: the feature engine judges which ticks count.

It is the worker's own engine on the same records, so ticks, gaps and features are those of the live predictions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from google.protobuf.message import DecodeError

from pipeline.features.columns import GAP, ProductCodes, TickColumns, sound
from pipeline.features.engine import FeatureEngine, Status
from pipeline.features.time_rule import TimeRule
from pipeline.records import NOT_DECODED, Record, decode_record
from training.monitoring.join import Answer, Join
from training.monitoring.served import SCHEMA
from volcast.v1 import MissingReason, Prediction


class Feed:
    """max_future_ns: as for the worker, see TimeRule."""

    def __init__(self, join: Join, max_future_ns: int = 0) -> None:
        self._join = join
        self._rule = TimeRule(max_future_ns)
        self._engine = FeatureEngine(SCHEMA)
        self._codes = ProductCodes()
        self.unreadable: Counter[str] = Counter()  # by topic role

    def compile(self) -> None:
        self._engine.compile()

    def raw(self, values: Sequence[bytes]) -> None:
        """The next records of ticks.raw. Unreadable records are left out, as by the worker."""
        records = list(self._decoded(values))
        if not records:
            return
        columns = TickColumns.from_records(records, self._codes)
        usable = sound(columns)
        self.unreadable["raw"] += int(np.count_nonzero(~usable))
        columns = columns.select(usable)
        last_ns = self._engine.last_times_ns(columns.product)
        if not self._rule.holds(columns, last_ns):
            kept = [records[i] for i in np.flatnonzero(usable).tolist()]
            left, _ = self._rule.applied(kept, columns, last_ns)
            columns = TickColumns.from_records([record for _, record in left], self._codes)
        batch = self._engine.update(columns)
        mid = (columns.bid + columns.ask) / 2
        for code in np.unique(columns.product).tolist():
            product = self._codes.names[code]
            of = np.flatnonzero((columns.product == code) & ((batch.status == Status.OK) | (columns.kind == GAP)))
            gaps = np.flatnonzero(columns.kind[of] == GAP)
            for number, (before, after) in enumerate(pairwise([-1, *gaps.tolist(), len(of)])):
                if number:
                    self._join.gap(product)
                rows = of[before + 1 : after]
                if len(rows):
                    self._join.ticks(
                        product, columns.event_time_ns[rows], columns.sequence_num[rows], mid[rows], batch.values[rows]
                    )

    def predictions(self, values: Sequence[bytes]) -> None:
        """The next records of predictions."""
        self._join.predictions(self._answers(values))

    def _answers(self, values: Sequence[bytes]) -> Iterator[Answer]:
        for value in values:
            try:
                record = Prediction.FromString(value)
            except DecodeError:
                self.unreadable["predictions"] += 1
                continue
            if record.missing_reason:
                self._join.missing(_reason(record.missing_reason))
            elif not record.HasField("probability") or not 0 <= record.probability <= 1:
                self.unreadable["predictions"] += 1
            else:
                yield Answer(
                    product_id=record.product_id,
                    event_time_ns=record.event_time_ns,
                    sequence_num=record.sequence_num,
                    model=f"{record.model_name}/{record.model_version}",
                    probability=record.probability,
                    threshold=record.threshold,
                    spike_bps=record.spike_bps,
                    base_rate=record.base_rate,
                    median_bps=record.median_bps,
                )

    def _decoded(self, values: Sequence[bytes]) -> Iterator[Record]:
        for value in values:
            try:
                yield decode_record(value)
            except NOT_DECODED:
                self.unreadable["raw"] += 1


def _reason(number: int) -> str:
    """MISSING_REASON_REFUSED as "refused"; the number of a reason that this version does not know."""
    if number not in MissingReason.values():
        return str(number)
    return MissingReason.Name(number).removeprefix("MISSING_REASON_").lower()
