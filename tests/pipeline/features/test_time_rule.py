"""The worker's time rule: the decisions of ingest, taken on records alone."""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.schema import CORE_1
from pipeline.feed.gate import MAX_TIME_JUMP_NS
from pipeline.records import Gap, Record, Tick
from pipeline.stream.partition import Outcome, Partition
from tests.pipeline.stream.fakes import FakeMessage, messages_of
from tests.pipeline.stream.ticks import market

S = 10**9
START = 1_700_000_000 * S
FUTURE_S = 60


def at(second: float, number: int = 0, product: str = "BTC-USD", ingested_s: float | None = None) -> Tick:
    time_ns = START + round(second * S)
    ingest_ns = 0 if ingested_s is None else START + round(ingested_s * S)
    return Tick(product, time_ns, ingest_ns, number, 100.0 + number, 99.0, 101.0, 1.0, 2.0)


def partition() -> Partition:
    return Partition(0, CORE_1, FUTURE_S * S, "lineage", 0)


def absorbed(*records: Record) -> Outcome:
    return partition().absorb(messages_of(records))


def used(outcome: Outcome) -> list[int]:
    return [int(offset) for offset in outcome.offsets]


@pytest.mark.parametrize(("ahead_s", "dead"), [(FUTURE_S, False), (FUTURE_S + 1e-6, True), (10**9, True)])
def test_a_tick_ahead_of_its_own_receipt_is_dead_and_later_ticks_are_not_late(ahead_s: float, dead: bool) -> None:
    outcome = absorbed(
        at(0, 0, ingested_s=0), at(ahead_s, 1, ingested_s=0), at(1 + ahead_s * (not dead), 2, ingested_s=1)
    )
    assert [reason for reason, *_ in outcome.dead] == ["time_in_future"] * dead
    assert used(outcome) == ([0, 2] if dead else [0, 1, 2])
    assert not outcome.late


def test_without_a_time_of_receipt_the_products_last_tick_decides() -> None:
    outcome = absorbed(at(0, 0), at(10**6, 1), at(1, 2), at(2, 3))
    assert [(reason, offset) for reason, _, offset, _ in outcome.dead] == [("time_jumped_ahead", 1)]
    assert used(outcome) == [0, 2, 3]


@pytest.mark.parametrize(("jump_ns", "dead"), [(MAX_TIME_JUMP_NS, 0), (MAX_TIME_JUMP_NS + 1, 1)])
def test_ten_minutes_ahead_is_the_bound(jump_ns: int, dead: int) -> None:
    later = msgspec.structs.replace(at(0, 1), event_time_ns=START + jump_ns)
    assert len(absorbed(at(0, 0), later).dead) == dead


@pytest.mark.parametrize("off_s", [0, 600, -600, 601, -601])
def test_a_product_that_was_quiet_for_long_is_not_doubted_if_its_time_agrees_with_the_receipt(off_s: int) -> None:
    outcome = Partition(0, CORE_1, 0, "lineage", 0).absorb(
        messages_of([at(0, 0, ingested_s=0), at(5000, 1, ingested_s=5000 - off_s), at(10_000, 2, ingested_s=10_000)])
    )
    assert used(outcome) == ([0, 1, 2] if abs(off_s) <= 600 else [0, 2])
    assert outcome.gaps == []


def test_a_time_far_back_is_doubted_though_it_agrees_with_the_receipt() -> None:
    outcome = absorbed(at(5000, 0), at(0, 1, ingested_s=0), at(5001, 2))
    assert used(outcome) == [0, 2]
    assert [reason for reason, *_ in outcome.late] == ["time_jumped_back"]


def test_a_jump_that_the_next_tick_confirms_is_a_gap() -> None:
    outcome = absorbed(at(0, 0), at(1000, 1), at(1001, 2), at(1002, 3))
    assert [offset for _, _, offset, _ in outcome.dead] == [1]
    assert outcome.gaps == ["clock"]
    assert used(outcome) == [0, 2, 3]


def test_ticks_of_one_message_do_not_confirm_each_other() -> None:
    outcome = absorbed(at(0, 0), at(1000, 7), at(1000, 7), at(1, 8))
    assert [offset for _, _, offset, _ in outcome.dead] == [1, 2]
    assert used(outcome) == [0, 3]


def test_a_first_tick_in_the_future_is_cured_by_two_that_agree() -> None:
    outcome = absorbed(at(10**6, 0), at(1, 1), at(2, 2), at(3, 3))
    assert [(reason, offset) for reason, offset, _ in outcome.late] == [("time_jumped_back", 1)]
    assert used(outcome) == [0, 2, 3]


def test_after_a_gap_any_time_begins_a_history() -> None:
    gap = Gap("BTC-USD", START, 0, "reconnect", 0)
    outcome = absorbed(at(0, 0), at(10**6, 1), gap, at(10**6, 2), at(10**6 + 1, 3))
    assert used(outcome) == [0, 3, 4]
    assert outcome.gaps == ["reconnect"]


def test_products_do_not_judge_each_other() -> None:
    outcome = absorbed(at(0, 0), at(10**6, 1, "ETH-USD"), at(1, 2), at(10**6 + 1, 3, "ETH-USD"))
    assert used(outcome) == [0, 1, 2, 3]


def test_the_raw_message_and_the_times_are_in_the_dead_letter() -> None:
    ((reason, detail, offset, raw),) = absorbed(at(0, 0), at(10**6, 1)).dead
    assert (reason, offset) == ("time_jumped_ahead", 1)
    assert str(START) in detail
    assert msgspec.json.decode(raw)["sequence_num"] == 1


def test_a_gap_of_an_unknown_reason_and_unknown_fields_are_no_dead_letters() -> None:
    tick, gap = at(0), Gap("BTC-USD", START, 0, "solar flare", 0)
    values = [msgspec.json.encode({**msgspec.to_builtins(one), "added": [1]}) for one in (tick, gap)]
    outcome = partition().absorb([FakeMessage(value, offset) for offset, value in enumerate(values)])
    assert not outcome.dead
    assert outcome.gaps == ["solar flare"]
    assert used(outcome) == [0]


TIMES = st.lists(st.sampled_from([0, 1, 2, 599, 600, 601, 1200, 10**6, 10**6 + 1]), max_size=30)


@given(TIMES, st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_however_messages_are_cut_the_decisions_are_the_same(seconds: list[int], sizes: list[int], data: Any) -> None:
    ingested = [data.draw(st.sampled_from([None, second, 0])) for second in seconds]
    records = [at(second, number, ingested_s=ingested[number]) for number, second in enumerate(seconds)]
    messages = messages_of(records)
    whole, cut = partition(), partition()
    expected = [whole.absorb(messages)] if messages else []
    outcomes: list[Outcome] = []
    done = 0
    while done < len(messages):
        size = sizes[len(outcomes) % len(sizes)]
        outcomes.append(cut.absorb(messages[done : done + size]))
        done += size
    for name in ("late", "dead", "gaps"):
        assert list(chain(*(getattr(one, name) for one in outcomes))) == list(
            chain(*(getattr(one, name) for one in expected))
        )
    values = [np.concatenate([one.features.values for one in some]) for some in (outcomes, expected) if some]
    assert not values or values[0].tobytes() == values[1].tobytes()


def test_ordinary_ticks_pass_by_whole_columns() -> None:
    here = partition()
    assert len(here.absorb(messages_of(market(500))).columns) == 500
