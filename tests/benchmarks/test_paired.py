"""The interval of a paired ratio is that of the sign test, whatever the figures' distribution."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.paired import CONFIDENCE, paired


def test_the_ratio_is_the_median_of_the_ratios_of_the_rounds() -> None:
    # The machine is half as fast in the last round, for both.
    assert paired([10, 22, 6], [10, 20, 5]).ratio == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("rounds", "dropped", "confidence"),
    [(1, 0, 0.0), (2, 0, 0.5), (5, 0, 0.9375), (6, 0, 0.96875), (8, 0, 0.9921875), (9, 1, 0.9609375)],
)
def test_the_interval_drops_as_many_rounds_at_either_end_as_its_confidence_allows(
    rounds: int, dropped: int, confidence: float
) -> None:
    ratios = [float(number) for number in range(1, rounds + 1)]
    interval = paired(ratios, [1.0] * rounds)
    assert (interval.low, interval.high) == (ratios[dropped], ratios[rounds - 1 - dropped])
    assert interval.confidence == pytest.approx(confidence)


def test_the_interval_holds_the_median_as_often_as_it_promises() -> None:
    random = np.random.default_rng(1)
    runs = random.lognormal(0, 2, (2000, 9))  # median 1, and outliers as of a shared machine
    intervals = [paired(run.tolist(), [1.0] * 9) for run in runs]
    holding = np.mean([interval.low <= 1 <= interval.high for interval in intervals])
    assert holding == pytest.approx(intervals[0].confidence, abs=0.015)
    assert holding > CONFIDENCE - 0.01


def test_rounds_that_are_not_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired([1, 2], [1])
