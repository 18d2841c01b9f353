"""The offline path: the engine's rows, and a count for everything that is not a row."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.features.columns import ProductCodes, TickColumns
from pipeline.features.engine import FeatureEngine, Status
from pipeline.features.table import FeatureCounts, FeatureRows, compute_features, feature_chunks
from pipeline.records import DeadLetter, Gap, LateTick, Tick
from tests.pipeline.features.markets import SECOND_NS, START_NS


def tick(at_s: float, sequence: int = 0, product: str = "BTC-USD") -> Tick:
    time_ns = START_NS + round(at_s * SECOND_NS)
    return Tick(product, time_ns, time_ns + 7, sequence, 100.0, 100.0 + sequence % 3, 104.0, 1.0, 3.0)


def records() -> list[Tick | Gap | LateTick | DeadLetter]:
    """Two products, each reason once or twice."""
    found: list[Tick | Gap | LateTick | DeadLetter] = []
    for at in range(100):
        found += [tick(at, at), tick(at, at, "ETH-USD")]
    found.append(DeadLetter.of("not_json", "", "x:1", b"{"))
    found.append(LateTick("old_sequence", "x:2", tick(3)))
    found += [found[198], tick(98.5, 200)]  # repeated, jumped back
    found += [Gap("BTC-USD", START_NS, 0, "sequence", 3), tick(100, 201), Gap("ETH-USD", START_NS, 0, "reconnect", 0)]
    return found


def test_every_record_is_counted_once() -> None:
    counts = compute_features(records()).counts
    assert counts == FeatureCounts(
        ticks=203,
        features=201,
        not_warm=121,
        gaps=Counter({"sequence": 1, "reconnect": 1}),
        late=Counter({"old_sequence": 1, "repeated": 1, "time_jumped_back": 1}),
        dead=Counter({"not_json": 1}),
    )


def test_what_is_no_row_is_handed_back_with_its_reason() -> None:
    refused = compute_features(records()).refused
    by_reason = {one.reason: one for one in refused}
    assert by_reason.keys() == {"not_json", "old_sequence", "repeated", "time_jumped_back"}
    late = {one.reason: one.tick for one in refused if isinstance(one, LateTick)}
    assert late["time_jumped_back"] == tick(98.5, 200)
    assert by_reason["time_jumped_back"].source == "record 202"  # of the ticks and gaps, from 1
    assert late["repeated"] == tick(99, 99)


def test_rows_are_those_of_the_engine() -> None:
    accepted = [one for one in records() if isinstance(one, Tick | Gap)]
    ticks = TickColumns.from_records(accepted, ProductCodes())
    batch = FeatureEngine().update(ticks)
    rows = compute_features(records()).rows
    used = batch.status == Status.OK
    assert rows.values.tobytes() == batch.values[used].tobytes()
    assert rows.warm.tolist() == batch.warm[used].tolist()
    assert rows.product_ids == [one.product_id for one, ok in zip(accepted, used, strict=True) if ok]
    assert rows.event_time_ns.tolist() == ticks.event_time_ns[used].tolist()
    assert rows.ingest_time_ns.tolist() == ticks.ingest_time_ns[used].tolist()
    assert rows.sequence_num.tolist() == ticks.sequence_num[used].tolist()


@pytest.mark.parametrize("chunk_records", [1, 3, 1000])
def test_the_size_of_chunks_changes_nothing(chunk_records: int) -> None:
    whole, counts = compute_features(records()), FeatureCounts()
    chunks = list(feature_chunks(records(), counts, chunk_records))
    rows = FeatureRows.joined(chunk.rows for chunk in chunks)
    assert counts == whole.counts
    assert rows.values.tobytes() == whole.rows.values.tobytes()
    assert rows.product_ids == whole.rows.product_ids
    found = [one for chunk in chunks for one in chunk.refused]
    assert sorted(map(repr, found)) == sorted(map(repr, whole.refused))


def test_no_records_are_an_empty_table() -> None:
    table = compute_features([])
    assert len(table.rows) == 0
    assert table.rows.values.shape == (0, 11)
    assert table.rows.event_time_ns.dtype == np.int64
    assert table.counts == FeatureCounts()
