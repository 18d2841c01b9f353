"""The peak is searched until it is behind, and the rows say what was really offered."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest

from benchmarks import overload
from benchmarks.processes import Process
from tests.benchmarks.runs import silent

CLOSED, PEAK = 1000.0, 1500.0


def figures(rate: float, seconds: float, goodput: Callable[[float], float]) -> dict[str, Any]:
    offered = int(rate * seconds)
    good = goodput(rate)
    return {
        "offered": offered,
        "not_sent": offered // 10,
        "goodput_per_s": good,
        "resource_exhausted": offered // 2,
        "others": {},
        "ok_us": {"p50": rate / 2, "p99": rate},
        "start_us": {"p99": 30.0},
        "refused_us": {"p50": 70.0},
        "lag_us": {"p99": 40.0},
        "generator_cpu_s": seconds / 2,
    }


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rates that were offered to a server that answers up to PEAK, and a tenth less when pressed harder."""
    asked: list[float] = []

    def offer(address: str, rate: float, seconds: float, *_: object, **__: object) -> dict[str, Any]:
        asked.append(rate)
        return figures(rate, seconds, lambda rate: rate if rate <= PEAK else 0.9 * PEAK)

    @contextmanager
    def serving(*_: str) -> Any:
        yield Process("nowhere:1", 1, 0.5)

    @contextmanager
    def memory(_: Process) -> Any:
        yield [100.0, 110.0, 110.0, 110.0, 110.0, 110.0, 120.0, 120.0]

    monkeypatch.setattr(overload, "_capacity", lambda *_: CLOSED)
    monkeypatch.setattr(overload, "open_loop", offer)
    monkeypatch.setattr(overload, "server", serving)
    monkeypatch.setattr(overload, "check", lambda *_: 0)
    monkeypatch.setattr(overload, "_memory", memory)
    return asked


def test_the_search_stops_once_more_load_brings_less_twice(rates: list[float]) -> None:
    peak = overload._peak(silent(), "nowhere:1")
    assert peak == pytest.approx(700 * 1.2**4)
    assert rates == pytest.approx([700 * 1.2**step for step in range(7)])


def test_overload_is_five_times_the_peak_and_compared_with_80_percent_of_it(rates: list[float]) -> None:
    goodput, tail, memory = overload.overload(silent())
    peak = goodput.theirs
    assert peak is not None
    assert rates[-3:] == pytest.approx([0.8 * peak, 0.8 * peak, 5 * peak])
    assert (goodput.ours, goodput.reached) == (0.9 * PEAK, True)
    assert (tail.ours, tail.theirs) == pytest.approx((5 * peak, 0.8 * peak))
    assert tail.reached is False
    assert (memory.ours, memory.theirs, memory.reached) == (120, 110, False)
    assert f"due {5 * peak:,.0f}/s, sent {4.5 * peak:,.0f}/s, refused {2.5 * peak:,.0f}/s" in goodput.note
    assert "on 0.50 cores" in goodput.note
    assert tail.note.endswith("30 us (p99)")


def test_the_part_of_the_calls_that_is_answered_is_told() -> None:
    assert overload._answered({"ok": 99, "offered": 100}) == 0.99
