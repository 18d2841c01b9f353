"""How far back a restarted worker has to read."""

from __future__ import annotations

import msgspec
import pytest

from common.schema import FULL_1
from pipeline.features.engine import longest_ns
from pipeline.records import Gap, Record, Tick
from pipeline.stream.restore import SETTLING_TICKS, covers

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
TICK = Tick("BTC-USD", 0, 0, 0, 1.0, 1.0, 1.0, 1.0, 1.0)


def at(second: float, product: str = "BTC-USD") -> Tick:
    return msgspec.structs.replace(TICK, product_id=product, event_time_ns=round((1000 + second) * SECOND_NS))


def each_second(first: int, last: int, product: str = "BTC-USD") -> list[Record]:
    return [at(second, product) for second in range(first, last + 1)]


@pytest.mark.parametrize(("span_s", "enough"), [(59, False), (60, True), (600, True)])
def test_a_whole_window_must_lie_behind_the_first_few_ticks(span_s: int, enough: bool) -> None:
    records = each_second(1, SETTLING_TICKS + span_s)
    assert covers(records, MINUTE_NS, at_start=False) is enough


def test_what_stands_at_the_start_of_the_topic_is_all_there_is() -> None:
    assert covers([at(0)], MINUTE_NS, at_start=True)
    assert covers([], MINUTE_NS, at_start=True)


def test_every_product_needs_its_window() -> None:
    long, short = each_second(1, 200), each_second(150, 200, "ETH-USD")
    assert covers(long, MINUTE_NS, at_start=False)
    assert not covers(long + short, MINUTE_NS, at_start=False)


def test_history_that_begins_with_a_gap_is_whole_however_short() -> None:
    gap = Gap("BTC-USD", at(0).event_time_ns, 0, "reconnect", 0)
    assert covers([gap, at(1)], MINUTE_NS, at_start=False)
    assert covers([at(-5), gap, at(1)], MINUTE_NS, at_start=False)
    assert not covers([gap, at(1), at(1, "ETH-USD")], MINUTE_NS, at_start=False)


def test_a_late_tick_at_the_beginning_does_not_pass_for_a_long_history() -> None:
    late = at(-500)
    assert not covers([late, *each_second(1, 30)], MINUTE_NS, at_start=False)
    assert not covers([late, *each_second(1, 60)], MINUTE_NS, at_start=False)
    assert covers([late, *each_second(1, 60 + SETTLING_TICKS)], MINUTE_NS, at_start=False)


def test_a_late_tick_in_between_changes_nothing() -> None:
    assert covers([*each_second(1, 100), at(-500)], MINUTE_NS, at_start=False)


@pytest.mark.parametrize(("span_s", "enough"), [(299, False), (300, True)])
def test_a_schema_of_longer_windows_reaches_further_back(span_s: int, enough: bool) -> None:
    assert covers(each_second(1, SETTLING_TICKS + span_s), longest_ns(FULL_1), at_start=False) is enough
