from __future__ import annotations

import numpy as np

from training.evaluation.blocks import Blocks, interval


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
