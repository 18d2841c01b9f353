"""When a summary explains why no row is warm."""

from __future__ import annotations

import pytest

from pipeline.feed.advice import GapWatch, gap_advice, order_advice
from pipeline.feed.rfc3339 import NS_PER_S
from pipeline.records import Gap, Tick


@pytest.mark.parametrize(
    ("gaps", "distance_s", "advises"), [(3, 59.9, True), (2, 1.0, False), (3, 60.0, False), (0, float("inf"), False)]
)
def test_advice_needs_three_gaps_closer_than_the_window(gaps: int, distance_s: float, advises: bool) -> None:
    assert bool(gap_advice(gaps, distance_s)) is advises


def tick(second: int, product: str = "BTC-USD") -> Tick:
    return Tick(product, second * NS_PER_S, 0, second, 1.0, 1.0, 1.0, 1.0, 1.0)


def test_the_watch_measures_the_product_with_the_most_gaps_and_passes_records_on() -> None:
    watch = GapWatch()
    records: list[Tick | Gap] = [tick(0), tick(0, "ETH-USD")]
    for second in range(1, 5):
        records += [Gap("BTC-USD", second * NS_PER_S, 0, "sequence", 1), tick(second)]
    assert list(watch.watch(records)) == records
    assert "jump every 1 s on average" in watch.advice()
    assert "ingest.gap_after_s" in watch.advice()


def test_other_gaps_need_no_advice() -> None:
    watch = GapWatch()
    for second in range(5):
        watch.see(Gap("BTC-USD", second * NS_PER_S, 0, "reconnect", 0))
        watch.see(tick(second))
    assert watch.advice() == ""


@pytest.mark.parametrize(("late", "advises"), [(0, False), (5, False), (6, True), (99, True)])
def test_many_late_ticks_need_a_sorted_recording(late: int, advises: bool) -> None:
    assert ("Sort the recording by time" in order_advice(late, 100)) is advises
