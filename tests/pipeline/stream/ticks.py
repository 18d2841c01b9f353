"""Plain ticks for the stream's tests."""

from __future__ import annotations

from itertools import islice

from pipeline.exchange.simulator import PROFILES, simulate
from pipeline.records import Tick


def market(count: int, *, seed: int = 5, rate_per_s: float = 4.0) -> list[Tick]:
    """A simulated market of two products; at four ticks a second and product it is warm after 480."""
    return [
        Tick(
            one.product_id, one.event_time_ns, one.event_time_ns + 1000, number, one.price / 100, one.bid / 100,
            one.ask / 100, one.bid_quantity / 1e8, one.ask_quantity / 1e8,
        )
        for number, one in enumerate(islice(simulate(PROFILES, seed, rate_per_s), count))
    ]  # fmt: skip
