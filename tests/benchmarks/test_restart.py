"""The restart benchmark: its market, and a short form of its course."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.restart import DOWN_S, WARM_S, Mix, measure
from common.config import KafkaConfig

SMALL = Mix(slow_products=2, slow_per_s=5.0, busy_per_s=50.0, quiet_s=10.0)


def test_the_market_is_in_order_with_the_rates_of_the_mix_and_a_silence() -> None:
    ticks = list(SMALL.ticks())
    times = [tick.event_time_ns for tick in ticks]
    assert times == sorted(times)
    assert [tick.sequence_num for tick in ticks] == sorted({tick.sequence_num for tick in ticks})
    counts = Counter(tick.product_id for tick in ticks)
    whole_s = WARM_S + SMALL.quiet_s + DOWN_S
    assert counts["SLOW0-USD"] == counts["SLOW1-USD"] == 5 * whole_s
    assert counts["BUSY-USD"] == 50 * whole_s
    quiet_ns = [tick.event_time_ns for tick in ticks if tick.product_id == "QUIET-USD"]
    silences_s = [(after - before) / 1e9 for before, after in pairwise(quiet_ns)]
    assert max(silences_s) >= SMALL.quiet_s > 2 * sorted(silences_s)[-2]


@pytest.mark.process
@pytest.mark.kafka
def test_a_killed_worker_catches_up_with_identical_rows(
    kafka: KafkaConfig, inference_server: str, tmp_path: Path
) -> None:
    outcome = measure(kafka, inference_server, tmp_path, SMALL)
    assert outcome.verdict.faults == 0
    assert outcome.verdict.rows == outcome.ticks
    assert 0 < outcome.resident_mb <= outcome.peak_mb
