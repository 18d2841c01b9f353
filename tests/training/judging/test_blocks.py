from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from training.judging.blocks import Blocks, interval
from training.judging.figures import areas
from training.problem.target import NS_PER_S


def test_each_draw_takes_as_many_blocks_as_there_are() -> None:
    blocks = Blocks.of(np.arange(0, 100, 7), 20)
    assert blocks.count == 5
    assert blocks.draws(50, seed=1).sum(axis=1).tolist() == [5.0] * 50


def test_blocks_of_time_without_rows_are_not_drawn() -> None:
    blocks = Blocks.of(np.array([1, 2, 1000, 1001, 5000]), 10)
    assert blocks.of_row.tolist() == [0, 0, 1, 1, 2]


def test_the_same_seed_draws_the_same_blocks() -> None:
    blocks = Blocks.of(np.arange(100), 10)
    assert np.array_equal(blocks.draws(20, 5), blocks.draws(20, 5))
    assert not np.array_equal(blocks.draws(20, 5), blocks.draws(20, 6))


def test_an_interval_needs_draws_that_define_the_metric() -> None:
    samples = np.linspace(0, 1, 101)
    assert interval(samples) == (0.025, 0.975)
    samples[30:] = np.nan
    assert interval(samples) is None


def test_intervals_of_the_mean_cover_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        values = np.repeat(random.normal(size=60), 10)  # ten rows of a block are one piece of evidence
        blocks = Blocks.of(np.arange(600), 10)
        means = (blocks.draws(200, int(random.integers(1 << 30))) @ blocks.sums(values[:, None])).T[0] / 600
        found = interval(means)
        assert found is not None
        covered += found[0] <= 0 <= found[1]
    assert 0.88 <= covered / 200 <= 0.98


def resampled(y: NDArray[np.int8], probability: NDArray[np.float64], time_ns: NDArray[np.int64], seed: int) -> Any:
    """PR-AUC of each draw of blocks of five minutes."""
    blocks = Blocks.of(time_ns, 300 * NS_PER_S)
    return areas(y, probability, blocks.of_row, blocks.draws(500, seed))[0]


def middle(samples: NDArray[np.float64]) -> tuple[float, float]:
    found = interval(samples)
    assert found is not None
    return found


def test_intervals_hold_the_point_value_and_are_wider_for_dependent_rows() -> None:
    random = np.random.default_rng(1)
    y = np.repeat((random.random(40) < 0.3).astype(np.int8), 50)
    probability = np.clip(np.repeat(0.3 + random.normal(scale=0.1, size=40), 50) + 0.1 * y, 0, 1)
    in_blocks = np.arange(2000) * 6 * NS_PER_S  # fifty equal rows fall into one block of five minutes
    apart = random.permutation(2000) * 300 * NS_PER_S  # each row is a block of its own
    low, high = middle(resampled(y, probability, in_blocks, 0))
    narrow_low, narrow_high = middle(resampled(y, probability, apart, 0))
    assert low < average_precision_score(y, probability) < high
    assert high - low > 3 * (narrow_high - narrow_low)


def test_models_are_compared_on_the_same_draws() -> None:
    random = np.random.default_rng(2)
    y = (random.random(300) < 0.3).astype(np.int8)
    probability = random.random(300)
    time_ns = np.arange(300) * 10 * NS_PER_S
    # The square ranks alike.
    assert np.array_equal(
        resampled(y, probability, time_ns, 0), resampled(y, probability**2, time_ns, 0), equal_nan=True
    )


def test_the_same_seed_gives_the_same_resampled_areas() -> None:
    random = np.random.default_rng(3)
    y = (random.random(300) < 0.3).astype(np.int8)
    time_ns, probability = np.arange(300) * 10 * NS_PER_S, random.random(300)
    once, again, other = (resampled(y, probability, time_ns, seed) for seed in (5, 5, 6))
    assert np.array_equal(once, again, equal_nan=True)
    assert not np.array_equal(once, other, equal_nan=True)
