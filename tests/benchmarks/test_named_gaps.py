"""Injected faults against named gaps: what the comparison accepts and what it reports."""

from __future__ import annotations

import pytest

from benchmarks.named_gaps import CLOCK_JUMP_NS, InjectedFault, Naming, Positions, compare
from pipeline.exchange.faults import Fault
from pipeline.exchange.items import Item, Restart
from pipeline.records import Tick
from pipeline.stream.gaps import GapSpan, Place

STEP_NS = 10**9
FEED: list[Item | Restart] = [Item(b"", event_time_ns=n * STEP_NS, products=("AB"[n % 2],)) for n in range(20)]


def tick(position: int) -> Tick:
    return Tick("AB"[position % 2], position * STEP_NS, 0, position, 1.0, 1.0, 1.0, 1.0, 1.0)


def fault(kind: Fault, position: int) -> InjectedFault:
    return InjectedFault(kind, position, 1, ("AB"[position % 2],), position, position * STEP_NS)


def place(position: int | None, moved_ns: int = 0) -> Place | None:
    return None if position is None else Place(position, position, position * STEP_NS + moved_ns)


def span(product: str, after: int | None, until: int | None, reason: str = "sequence", moved_ns: int = 0) -> GapSpan:
    return GapSpan("coinbase", product, reason, 1, 0, 0, 0, place(after, moved_ns), place(until))


def compared(
    faults: list[InjectedFault], spans: list[GapSpan], lost: tuple[int, ...] = (), feed: list[Item | Restart] = FEED
) -> Naming:
    arrived = [tick(position) for position in range(20) if position not in lost]
    return compare(faults, spans, arrived, Positions(feed))


@pytest.mark.parametrize("kind", [Fault.DROP, Fault.REORDER, Fault.DELAY, Fault.GARBAGE])
def test_a_lost_message_needs_a_gap_of_its_product_around_it(kind: Fault) -> None:
    faults = [fault(kind, 6)]
    named = compared(faults, [span("A", 4, 8), span("B", 5, 7)], (6,))
    assert named == Naming([], [], 1)
    assert compared(faults, [span("B", 5, 7)], (6,)).unnamed == [f"{kind} at message 6 of A"]
    assert compared(faults, [span("A", 8, 10)], (6,)).unnamed == [f"{kind} at message 6 of A"]


@pytest.mark.parametrize("kind", [Fault.CUT, Fault.SILENCE, Fault.RECONNECT_STORM, Fault.REFUSED_SUBSCRIPTION])
def test_the_end_of_a_connection_needs_a_gap_of_every_product(kind: Fault) -> None:
    faults = [fault(kind, 6)]
    assert compared(faults, [span("A", 4, 8, "reconnect"), span("B", 5, 7, "reconnect")]) == Naming([], [], 2)
    assert compared(faults, [span("A", 4, 8, "reconnect")]).unnamed == [f"{kind} at message 6 of B"]


@pytest.mark.parametrize("kind", [Fault.REPEAT, Fault.SPLIT, Fault.SLOW])
def test_a_harmless_fault_needs_no_gap_and_explains_none(kind: Fault) -> None:
    assert compared([fault(kind, 6)], []) == Naming()
    assert len(compared([fault(kind, 6)], [span("A", 4, 8)]).unexplained) == 1


def test_a_gap_without_a_cause_is_reported() -> None:
    (line,) = compared([fault(Fault.DROP, 6)], [span("A", 4, 8), span("B", 11, 15)], (6,)).unexplained
    assert line == "sequence of B at offset 0, between messages 11 and 15"


def test_losses_before_the_first_and_after_the_last_tick_need_no_gap() -> None:
    faults = [fault(Fault.DROP, 0), fault(Fault.DROP, 18)]
    assert compared(faults, [], (0, 18)) == Naming()


def test_a_gap_of_the_recording_itself_is_explained() -> None:
    feed = [*FEED[:8], Restart(), *FEED[8:]]
    assert not compared([], [span("A", 6, 8), span("B", 7, 9)], feed=feed).unexplained
    assert compared([], [span("A", 4, 6)], feed=feed).unexplained


@pytest.mark.parametrize("moved_ns", [CLOCK_JUMP_NS, -CLOCK_JUMP_NS])
def test_a_tick_with_a_moved_time_is_found_again(moved_ns: int) -> None:
    faults = [fault(Fault.CLOCK_JUMP, 4)]
    assert not compared(faults, [span("A", 4, 8, "clock", moved_ns)]).unexplained
