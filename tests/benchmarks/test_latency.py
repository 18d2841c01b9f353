"""The rows of benchmarks.latency. The processes themselves are measured, not tested."""

from __future__ import annotations

import pytest

from benchmarks.latency import QUANTILES, Round, rows_of
from pipeline.stream.latency import Stages


def a_round(total: float, hop: float) -> Round:
    stages = {name: dict.fromkeys(QUANTILES, 0.1) for name in Stages.NAMES}
    stages["total"] = {0.5: total, 0.9: 2 * total, 0.99: 3 * total}
    return Round(stages, {0.5: hop, 0.9: 2 * hop, 0.99: 3 * hop}, dict.fromkeys(QUANTILES, hop + 1), 1000.0)


def test_the_target_is_on_the_difference_of_each_round() -> None:
    rows = {row.what: row for row in rows_of([a_round(1.0, 0.6), a_round(2.0, 1.8), a_round(9.0, 1.0)])}
    above = rows["total above the bare hop, p50"]
    assert above.our_rounds == pytest.approx((0.4, 0.2, 8.0))
    assert above.ours == pytest.approx(0.4)
    assert above.reached
    assert rows["total above the bare hop, p99"].ours == pytest.approx(1.2)
    assert rows["total above the bare hop, p99"].reached
    assert rows["bare hop, p50"].theirs == pytest.approx(2.0)


@pytest.mark.parametrize(("total", "reached"), [(1.4, True), (1.6, False)])
def test_half_a_millisecond_is_the_limit(total: float, reached: bool) -> None:
    rows = {row.what: row for row in rows_of([a_round(total, 1.0)])}
    assert rows["total above the bare hop, p50"].reached is reached
    assert rows["total above the bare hop, p90"].reached is None
