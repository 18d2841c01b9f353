"""The verdict of a day of event time: memory and latency stay flat, or the run has failed."""

from __future__ import annotations

import pytest
from rich.console import Console

from benchmarks.day import MAX_LATENCY_GROWTH, MAX_MEMORY_GROWTH, PARTS, Hour, growth, show


def day(memory_growth: float = 1.0, latency_growth: float = 1.0) -> list[Hour]:
    """Eight hours, of which the last two have grown."""
    return [
        Hour([2.0 * (latency_growth if last else 1)], dict.fromkeys(PARTS, 100.0 * (memory_growth if last else 1)))
        for last in [False] * 6 + [True] * 2
    ]


def test_growth_compares_the_last_quarter_with_the_quarter_before_it() -> None:
    assert growth([9, 9, 9, 9, 2, 2, 3, 3]) == 1.5


@pytest.mark.parametrize(
    ("hours", "flat"),
    [
        (day(), True),
        (day(memory_growth=MAX_MEMORY_GROWTH - 0.01, latency_growth=MAX_LATENCY_GROWTH - 0.01), True),
        (day(memory_growth=MAX_MEMORY_GROWTH + 0.01), False),
        (day(latency_growth=MAX_LATENCY_GROWTH + 0.01), False),
    ],
)
def test_a_day_is_flat_only_within_both_bounds(hours: list[Hour], flat: bool) -> None:
    assert show(Console(quiet=True), hours) is flat
