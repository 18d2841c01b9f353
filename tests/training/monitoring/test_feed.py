"""The monitor reads the ticks of ticks.raw that the worker uses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pipeline.records import encode
from tests.pipeline.stream.ticks import market
from training.monitoring.feed import Feed


class Ticks:
    """Stands in for the join: keeps the sequence numbers."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def ticks(self, product: str, times: Any, sequence_num: Any, mid: Any, values: Any) -> None:
        self.numbers += sequence_num.tolist()

    def gap(self, product: str) -> None:
        pass


@pytest.mark.parametrize("ingested", [True, False], ids=["received", "without receipt"])
def test_a_tick_far_in_the_future_is_left_out_and_later_ticks_are_taken(ingested: bool) -> None:
    ticks = [tick for tick in market(100) if tick.product_id == "BTC-USD"]
    if not ingested:
        ticks = [msgspec.structs.replace(tick, ingest_time_ns=0) for tick in ticks]
    ticks[10] = msgspec.structs.replace(ticks[10], event_time_ns=ticks[10].event_time_ns + 10**18)
    taken = Ticks()
    feed = Feed(taken, 60 * 10**9)  # type: ignore[arg-type]
    feed.raw([encode(tick) for tick in ticks[:20]])
    feed.raw([encode(tick) for tick in ticks[20:]])
    assert taken.numbers == [tick.sequence_num for number, tick in enumerate(ticks) if number != 10]
