"""The simulation of docs/scaling.md: Kafka's own placement, and a derived bound that holds."""

from __future__ import annotations

import pytest

from benchmarks.scaling import (
    WORKER_TICKS_PER_S,
    murmur2,
    partition_bound,
    partition_of,
    simulate_loads,
    workers_needed,
    zipf_rates,
)


@pytest.mark.parametrize(
    ("key", "signed"),
    [  # UtilsTest.testMurmur2 of Apache Kafka
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_keys_are_hashed_as_kafka_does(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % 2**32
    assert partition_of(key, 7) == (signed & 0x7FFFFFFF) % 7


def test_the_derived_bound_holds_in_the_simulation() -> None:
    rates = zipf_rates()
    for partitions in (24, 48):
        loads = simulate_loads(rates, partitions, workers_needed(rates.sum()))
        assert rates[0] < loads.partition <= partition_bound(rates, partitions) == loads.bound
        assert loads.worker < WORKER_TICKS_PER_S


def test_workers_are_counted_at_half_their_rate() -> None:
    assert workers_needed(1) == 1
    assert workers_needed(WORKER_TICKS_PER_S / 2) == 1
    assert workers_needed(WORKER_TICKS_PER_S / 2 + 1) == 2
