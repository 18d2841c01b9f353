"""The rules that `volcast check` applies to single records: a core that takes messages and counts faults."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from google.protobuf.message import DecodeError

from common.schema import SCHEMAS
from pipeline.records import NOT_DECODED, Gap, decode_dead, decode_late, decode_record
from pipeline.stream.gaps import GapSpans
from volcast.v1 import FeatureRow, MissingReason, Prediction


def missing_reason(prediction: Prediction) -> str:
    """The name of the reason; its number if this version does not know it, since a newer version wrote it."""
    try:
        return MissingReason.Name(prediction.missing_reason)
    except ValueError:
        return f"MISSING_REASON_{prediction.missing_reason}"


def _has_sound_distribution(prediction: Prediction) -> bool:
    """Whether median and quantiles are finite, and there is a quantile for each level, in ascending order."""
    levels, quantiles = prediction.quantile_levels, prediction.quantile_bps
    finite = math.isfinite(prediction.median_bps) and all(map(math.isfinite, quantiles))
    ascending = all(low <= high for low, high in pairwise(quantiles))
    return finite and ascending and len(quantiles) == len(levels)


_BY_HASH = {schema.hash: schema for schema in SCHEMAS.values()}


@dataclass
class Inspection:
    """Counts of the records that were read, and of their faults."""

    counts: Counter[str] = field(default_factory=Counter)  # by topic role
    gaps: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    not_warm: int = 0
    went_back: int = 0  # rows earlier than the one before: a worker was killed (at least once), or a replay
    missing: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)  # by kind
    newest_event_ns: dict[str, int] = field(default_factory=dict)  # product -> event time of ticks.raw
    spans: GapSpans = field(default_factory=GapSpans)
    _features_ns: dict[tuple[str, str], int] = field(default_factory=dict)  # venue and product -> of its last row

    def raw(self, value: bytes, partition: int = 0, offset: int = 0) -> None:
        self.counts["raw"] += 1
        try:
            record = decode_record(value)
        except NOT_DECODED:
            self.faults["ticks.raw: a record that is neither tick nor gap"] += 1
            return
        self.spans.take(record, partition, offset)
        if isinstance(record, Gap):
            self.gaps[record.reason] += 1
            return
        newest = self.newest_event_ns.get(record.product_id, 0)
        self.newest_event_ns[record.product_id] = max(newest, record.event_time_ns)

    def features(self, value: bytes) -> None:
        self.counts["features"] += 1
        try:
            row = FeatureRow.FromString(value)
        except DecodeError:
            self.faults["ticks.features: not a FeatureRow"] += 1
            return
        schema = _BY_HASH.get(row.schema_hash)
        if schema is None:
            self.faults[f"ticks.features: schema {row.schema_hash}, expected {' or '.join(_BY_HASH)}"] += 1
        elif len(row.values) != len(schema):
            self.faults[f"ticks.features: {len(row.values)} values, expected {len(schema)}"] += 1
        if row.warm and not all(map(math.isfinite, row.values)):
            self.faults["ticks.features: a warm row with a value that is not finite"] += 1
        instrument = row.venue, row.product_id
        self.went_back += row.event_time_ns < self._features_ns.get(instrument, 0)
        self._features_ns[instrument] = row.event_time_ns
        self.not_warm += not row.warm

    def predictions(self, value: bytes) -> None:
        self.counts["predictions"] += 1
        try:
            prediction = Prediction.FromString(value)
        except DecodeError:
            self.faults["predictions: not a Prediction"] += 1
            return
        if prediction.missing_reason:
            self.missing[missing_reason(prediction)] += 1
        elif not prediction.HasField("probability") or not 0 <= prediction.probability <= 1:
            self.faults["predictions: no probability in [0, 1] and no reason"] += 1
        elif not _has_sound_distribution(prediction):
            self.faults["predictions: a quantile or the median is missing, out of order or not finite"] += 1

    def late_tick(self, value: bytes) -> None:
        self.counts["late"] += 1
        try:
            self.late[decode_late(value).reason] += 1
        except NOT_DECODED:
            self.faults["ticks.late: not a late tick"] += 1

    def dead_letter(self, value: bytes) -> None:
        self.counts["dead"] += 1
        try:
            self.dead[decode_dead(value).reason] += 1
        except NOT_DECODED:
            self.faults["ticks.dead: not a dead letter"] += 1
