"""`volcast check` names each gap, in the table and in the report."""

from __future__ import annotations

import msgspec
import pytest

from pipeline.commands import check
from pipeline.commands.check import _report, _show
from pipeline.records import Gap, encode
from pipeline.stream.inspect import Inspection
from pipeline.stream.reconcile import Account
from tests.pipeline.stream.ticks import market


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
    assert sequence.startswith(
        "coinbase:BTC-USD sequence 3 2026-01-01 00:00:01.115 number 6 at 00:00:00.745 number 10 at"
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
    assert (sequence["after"]["offset"], sequence["until"]["offset"]) == (6, 11)
    assert (retention["reason"], retention["partition"], retention["offset"]) == ("retention", 2, 500)
    assert report["gap_spans_left_out"] == 0
