"""`volcast check` names each gap, in the table and in the report."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from pipeline.commands import check
from pipeline.commands.check import _report, _show
from pipeline.records import Gap, Tick, encode
from pipeline.stream.inspect import Inspection
from pipeline.stream.reconcile import Account
from tests.pipeline.stream.ticks import market


def ticks_around() -> tuple[int, Tick, Tick]:
    """Offset of the last tick of the product before the sequence gap, this tick, and the first tick after the gap."""
    ticks = market(20)
    offset = max(index for index in range(10) if ticks[index].product_id == ticks[10].product_id)
    return offset, ticks[offset], ticks[10]


def millisecond(tick: Tick) -> str:
    moment = datetime.fromtimestamp(tick.event_time_ns // 1_000_000 / 1000, UTC)
    return moment.isoformat(" ", "milliseconds").removesuffix("+00:00")


def inspected() -> Inspection:
    """Ten ticks, a sequence gap, ten ticks, a gap that no tick follows; and records that Kafka deleted."""
    look = Inspection()
    ticks = market(20)
    ends = msgspec.structs.replace(ticks[-1], product_id=ticks[10].product_id)
    gaps = Gap(ticks[10].product_id, ticks[10].event_time_ns, 0, "sequence", 3), Gap(ends.product_id, 0, 0, "[/red]", 0)
    for offset, record in enumerate([*ticks[:10], gaps[0], *ticks[10:], gaps[1]]):
        look.raw(encode(record), 0, offset)
    look.spans.lost(2, 500, 400)
    look.counts["features"] = 20
    return look


def test_people_read_product_reason_count_and_the_ticks_around(capfd: pytest.CaptureFixture[str]) -> None:
    _show(_report(inspected(), 10.0, {}, 0, Account()))
    lines = [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
    assert "product reason missing revealed at after before record" in lines
    sequence, unknown, retention = lines[lines.index("Gaps of ticks.raw") + 2 :][:3]
    _, before, after = ticks_around()
    assert sequence.startswith(
        f"coinbase:{after.product_id} sequence 3 {millisecond(after)} number {before.sequence_num} at "
        f"{millisecond(before).split()[1]} number {after.sequence_num} at {millisecond(after).split()[1]}"
    )
    assert sequence.endswith("[0]@10")
    assert unknown.startswith("coinbase:BTC-USD [/red] unknown")
    assert retention == "all of partition 2 retention 400 offset 500 none"


def test_a_long_list_ends_with_the_count_of_the_rest(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "MAX_SHOWN_GAPS", 1)
    _show(_report(inspected(), 10.0, {}, 0, Account()))
    assert "and 2 more; --json lists 3" in capfd.readouterr().out


def test_scripts_read_offsets_and_both_ticks() -> None:
    report = msgspec.json.decode(msgspec.json.encode(_report(inspected(), 10.0, {}, 0, Account())))
    sequence, _, retention = report["gap_spans"]
    assert (sequence["offset"], sequence["missed"], sequence["reason"]) == (10, 3, "sequence")
    assert (sequence["after"]["offset"], sequence["until"]["offset"]) == (ticks_around()[0], 11)
    assert (retention["reason"], retention["partition"], retention["offset"]) == ("retention", 2, 500)
    assert report["gap_spans_left_out"] == 0
