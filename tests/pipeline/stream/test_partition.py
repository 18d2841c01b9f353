"""The state of a partition: snapshots and the ticks since give the bits of a worker that never stopped."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.schema import CORE_1, FULL_1, FeatureSchema
from pipeline.records import Record, Tick
from pipeline.stream import partition as module
from pipeline.stream.partition import Outcome, Partition
from pipeline.stream.snapshots import Snapshot, SnapshotReader, records_of
from tests.pipeline.features.markets import markets
from tests.pipeline.stream.fakes import FakeMessage, messages_of
from tests.pipeline.stream.ticks import market


def fresh(schema: FeatureSchema = CORE_1) -> Partition:
    return Partition(0, schema, 0, "lineage", 0)


def through_the_topic(snapshots: Sequence[Snapshot], end: int) -> list[Snapshot]:
    reader = SnapshotReader("group", 0, "lineage", end)
    for snapshot in snapshots:
        for _, value in records_of(snapshot):
            reader.take(value)
    return reader.complete()


class Disk:
    """Commits a partition as a worker does, and restores it as a restart does."""

    def __init__(self, schema: FeatureSchema) -> None:
        self.schema = schema
        self.topic: list[Snapshot] = []
        self.marker = fresh(schema).marker(None, 0)
        self.end = 0

    def commit(self, live: Partition) -> None:
        self.marker = live.marker(None, 0)
        self.end = live.next_offset
        taken = live.due_snapshots("group")
        self.topic += taken
        live.snapshots_written(taken)

    def restored(self, messages: Sequence[FakeMessage]) -> tuple[Partition, int]:
        """And how many records were read again."""
        back = fresh(self.schema)
        back.broken_at = self.marker.broken_at
        back.load(through_the_topic(self.topic, self.end))
        replay = messages[self.marker.replay_from : self.end]
        if replay:
            back.absorb(replay)
        back.loaded()
        back.next_offset = self.end
        return back, len(replay)


def facts(outcome: Outcome) -> tuple[object, ...]:
    features = outcome.features
    bits = features.values.tobytes(), features.warm.tobytes(), outcome.offsets.tobytes()
    return (*bits, outcome.late, outcome.dead, outcome.gaps)


@pytest.mark.parametrize("schema", [CORE_1, FULL_1], ids=lambda schema: schema.name)
@settings(max_examples=40)
@given(data=st.data())
def test_a_restart_anywhere_goes_on_with_the_same_bits(schema: FeatureSchema, data: st.DataObject) -> None:
    messages = messages_of(data.draw(markets()))
    disk, live, at = Disk(schema), fresh(schema), 0
    reference = fresh(schema)
    while at < len(messages):
        size = data.draw(st.integers(1, 30))
        batch = messages[at : at + size]
        assert facts(live.absorb(batch)) == facts(reference.absorb(batch))
        at += len(batch)
        if data.draw(st.booleans()):
            live.mark_due()
        disk.commit(live)
        if data.draw(st.booleans()):
            live, _ = disk.restored(messages)


def quiet_beside_busy(busy: int) -> list[Record]:
    """One tick of an unknown product, a product with 90 ticks over 90 s, then a busy one."""
    start = market(1)[0].event_time_ns
    quiet = [
        Tick("QUIET-USD", start + second * 10**9, 0, second, 10.0 + second % 7, 9.0, 11.0 + second % 7, 1.0, 2.0)
        for second in range(90)
    ]
    unknown = msgspec.structs.replace(quiet[0], product_id="ONCE-USD")
    rows = [
        msgspec.structs.replace(tick, event_time_ns=start + 90 * 10**9 + number * 1_000_000, product_id="BUSY-USD")
        for number, tick in enumerate(market(busy))
    ]
    return [unknown, *quiet, *rows]


def test_a_restart_reads_a_bounded_number_of_records_whatever_the_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REPLAY_RECORDS", 500)
    messages = messages_of(quiet_beside_busy(5000))
    disk, live = Disk(CORE_1), fresh()
    for start in range(0, len(messages), 100):
        live.absorb(messages[start : start + 100])
        disk.commit(live)
    back, replayed = disk.restored(messages)
    assert replayed <= 500 + 2 * 100
    now_ns = quiet_beside_busy(1)[-1].event_time_ns
    # The quiet product is warm at once, with the same bits.
    last = messages_of([msgspec.structs.replace(quiet_beside_busy(0)[-1], event_time_ns=now_ns)])
    expected, got = live.absorb(last), back.absorb(last)
    assert expected.features.warm.tolist() == [True]
    assert facts(got) == facts(expected)


def test_snapshots_of_one_commit_are_bounded_and_the_longest_unwritten_come_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_SNAPSHOT_BYTES", 1)
    live = fresh()
    live.absorb(messages_of(quiet_beside_busy(10)))
    live.mark_due()
    taken = []
    while snapshots := live.due_snapshots("group"):
        assert len(snapshots) == 1
        live.snapshots_written(snapshots)
        taken.append(snapshots[0].product_id)
    assert taken == ["ONCE-USD", "QUIET-USD", "BUSY-USD"]
    assert live.marker(None, 0).replay_from == live.next_offset


def test_only_what_changed_is_written() -> None:
    live = fresh()
    messages = messages_of(quiet_beside_busy(10))
    live.absorb(messages)
    live.mark_due()
    live.snapshots_written(live.due_snapshots("group"))
    live.absorb([FakeMessage(messages[-1].raw, len(messages))])
    live.mark_due()
    assert [one.product_id for one in live.due_snapshots("group")] == ["BUSY-USD"]


def test_a_product_is_not_written_before_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REPLAY_RECORDS", 100)
    live, messages = fresh(), messages_of(market(200))
    live.absorb(messages[:100])
    assert live.due_snapshots("group") == []
    live.absorb(messages[100:101])
    assert len(live.due_snapshots("group")) == 1


def test_a_break_makes_every_product_cold_and_survives_a_restart() -> None:
    messages = messages_of(market(1500))
    disk, live = Disk(CORE_1), fresh()
    live.absorb(messages[:1000])
    live.mark_due()
    disk.commit(live)
    live.break_at(1100)
    disk.commit(live)
    assert disk.end == 1100
    back, _ = disk.restored(messages)
    for here in (live, back):
        outcome = here.absorb(messages[1100:1200])
        assert not outcome.features.warm.any()
        assert np.isnan(outcome.features.values[0, 2])


def test_a_break_spares_products_whose_snapshot_is_newer() -> None:
    messages = messages_of(market(1500))
    live = fresh()
    live.absorb(messages[:1000])
    live.mark_due()
    back = fresh()
    back.load(live.due_snapshots("group"))
    back.break_at(900)  # records before 900 are gone; the snapshots are as of 1000
    back.loaded()
    assert back.absorb(messages[1000:1100]).features.warm.all()
