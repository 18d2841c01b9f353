"""Intervals from blocks of time: what they cover, what they refuse, and groups of rows."""

import numpy as np
import pytest
from scipy.stats import norm, t
from sklearn.metrics import average_precision_score

from training.judging import comparison
from training.judging.blocks import DECISION_RESAMPLES, Blocks
from training.judging.comparison import (
    MIN_BLOCKS,
    NS_PER_DAY,
    Interval,
    differences_by,
    expanded_interval,
    groupings,
    mean_difference,
    mean_interval,
    pr_auc_difference,
    pr_auc_samples,
    sums_by_group,
)

HOUR_NS = 3600 * 10**9


def blocks_of(sizes: list[int]) -> Blocks:
    return Blocks(np.repeat(np.arange(len(sizes)), sizes).astype(np.int64), len(sizes))


def clustered(blocks: int, rows: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Rows of a block share most of their value."""
    random = np.random.default_rng(seed)
    return np.repeat(random.normal(shift, 1, blocks), rows) + 0.1 * random.normal(size=blocks * rows)


@pytest.mark.parametrize("count", [MIN_BLOCKS, 12, 60])
def test_an_interval_covers_the_true_mean_as_often_as_it_claims(count: int) -> None:
    blocks = blocks_of([20] * count)
    intervals = [mean_interval(clustered(count, 20, seed), blocks, seed) for seed in range(300)]
    missed = sum(given.lies_above(0) or given.lies_below(0) for given in intervals)
    assert 0.02 < missed / 300 < 0.09  # 5 %; measured: plain percentiles of 6 blocks miss in 16 %


def test_rows_of_a_block_are_no_independent_evidence() -> None:
    values = clustered(12, 500, 3)
    together = mean_interval(values, blocks_of([500] * 12), 1)
    apart = mean_interval(values, blocks_of([1] * 6000), 1)
    assert together.high is not None
    assert together.low is not None
    assert apart.high is not None
    assert apart.low is not None
    assert together.high - together.low > 10 * (apart.high - apart.low)


def test_a_difference_is_paired() -> None:
    """What is hard for both cancels."""
    hard = clustered(30, 20, 5)
    given = mean_difference(hard + 0.01, hard, blocks_of([20] * 30), 1)
    assert given.point == pytest.approx(0.01)
    assert (given.low, given.high) == pytest.approx((0.01, 0.01))


def test_the_mean_is_over_rows_not_over_blocks() -> None:
    blocks = blocks_of([30, 10, 10, 10, 10, 10])
    values = np.where(blocks.of_row == 0, 1.0, 0.0)
    assert mean_interval(values, blocks, 1).point == pytest.approx(30 / 80)


def test_intervals_repeat_with_the_seed_and_record_their_draws() -> None:
    values, blocks = clustered(10, 5, 1), blocks_of([5] * 10)
    assert mean_interval(values, blocks, 7) == mean_interval(values, blocks, 7)
    assert mean_interval(values, blocks, 7) != mean_interval(values, blocks, 8)
    assert mean_interval(values, blocks, 7).draws == DECISION_RESAMPLES == 2000


def test_too_few_blocks_give_no_interval() -> None:
    samples = np.linspace(0, 1, DECISION_RESAMPLES)
    assert expanded_interval(0.5, samples, MIN_BLOCKS - 1).low is None
    assert expanded_interval(0.5, samples, MIN_BLOCKS).low is not None
    assert int(np.ceil(np.log2(1 / 0.025))) == MIN_BLOCKS


def test_an_interval_needs_four_fifths_of_the_draws() -> None:
    samples = np.linspace(0, 1, 100)
    samples[:20] = np.nan
    assert expanded_interval(0.5, samples, 30).low is not None
    samples[20] = np.nan
    assert expanded_interval(0.5, samples, 30).low is None


def test_percentiles_are_expanded_by_students_t() -> None:
    samples = np.linspace(0, 1, 100_001)
    for blocks in (6, 30, 100_000):
        level = norm.cdf(-t.ppf(0.975, blocks - 1) * np.sqrt(blocks / (blocks - 1)))
        given = expanded_interval(0.5, samples, blocks)
        assert (given.low, given.high) == pytest.approx((level, 1 - level))
    assert expanded_interval(0.5, samples, 100_000).low == pytest.approx(0.025, abs=1e-5)


def test_an_end_at_the_limit_shows_nothing() -> None:
    given = Interval(0.0, -1.0, 1.0, 9)
    assert not given.lies_above(-1.0)
    assert given.lies_above(np.nextafter(-1, -2))
    assert not given.lies_below(1.0)
    assert given.lies_below(np.nextafter(1, 2))
    unknown = Interval(0.0, None, None, 2)
    assert not unknown.lies_above(-9)
    assert not unknown.lies_below(9)


def test_an_interval_reads_as_a_text() -> None:
    assert str(Interval(0.01234, -0.5, 1.0, 9)) == "+0.0123 [-0.5000, +1.0000]"
    assert str(Interval(0.1, None, None, 2)) == "+0.1000 (no interval: 2 blocks of time, 6 are needed)"


def test_sums_are_by_block_and_group() -> None:
    blocks = Blocks(np.array([0, 0, 1, 1]), 2)
    group = np.array([0, 1, 1, 1])
    assert sums_by_group(blocks, np.array([1.0, 2.0, 3.0, 4.0]), group, 2).tolist() == [[1, 2], [0, 7]]
    assert sums_by_group(blocks, np.array([1.0, 2.0, 3.0, 4.0]), None, 1).tolist() == [[3], [7]]


def ranked(seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    signal = random.normal(size=2000)
    return signal + random.normal(size=2000) > 1.5, 1 / (1 + np.exp(-signal - noise * random.normal(size=2000)))


def test_the_difference_in_pr_auc_is_the_mean_over_the_parts() -> None:
    blocks = blocks_of([50] * 40)
    exact, mine, theirs = [], [], []
    for seed in (1, 2):
        (event, better), worse = ranked(seed, 0.0), ranked(seed, 2.0)[1]
        exact.append(average_precision_score(event, better) - average_precision_score(event, worse))
        mine.append(pr_auc_samples(event, better, blocks, seed))
        theirs.append(pr_auc_samples(event, worse, blocks, seed))
    given = pr_auc_difference(mine, theirs)
    assert given.point == pytest.approx(np.mean(exact))
    assert given.blocks == mine[0].blocks + mine[1].blocks
    assert given.lies_above(0)
    again = expanded_interval(
        given.point, np.mean([my.samples - their.samples for my, their in zip(mine, theirs, strict=True)], axis=0), 80
    )
    assert (given.low, given.high) == pytest.approx((again.low, again.high), abs=1e-4)
    alone = pr_auc_difference(mine[:1], theirs[:1])
    assert alone.low is not None
    assert given.low is not None
    assert given.point - given.low < alone.point - alone.low


def test_a_draw_of_pr_auc_weighs_rows_by_their_block() -> None:
    event, probability = ranked(2, 0.0)
    blocks = blocks_of([50] * 40)
    weight = blocks.draws(DECISION_RESAMPLES, 4)[17][blocks.of_row]
    exact = average_precision_score(event, probability, sample_weight=weight)
    assert pr_auc_samples(event, probability, blocks, 4).samples[17] == pytest.approx(exact)


def test_pr_auc_counts_blocks_with_events() -> None:
    event = np.zeros(100, np.bool_)
    event[:20] = True  # in two of ten blocks
    mine, theirs = (
        [pr_auc_samples(event, probability, blocks_of([10] * 10), 1)]
        for probability in (np.linspace(1, 0, 100), np.linspace(0, 1, 100))
    )
    given = pr_auc_difference(mine, theirs)
    assert (given.blocks, given.low) == (2, None)


def test_groups_are_days_hours_products_and_regimes() -> None:
    time_ns = np.array([0, 25 * HOUR_NS - 1, 25 * HOUR_NS, 49 * HOUR_NS])
    given = {groups.by: groups for groups in groupings(time_ns, ["b", "a", "b", "b"], np.array([3.0, 1.0, 2.0, 4.0]))}
    assert list(given) == ["day", "hour", "product", "regime"]
    assert given["day"].names == ("1970-01-01", "1970-01-02", "1970-01-03")
    assert given["day"].of_row.tolist() == [0, 1, 1, 2]
    assert given["hour"].of_row.tolist() == [0, 0, 1, 1]
    assert given["hour"].names == tuple(f"{hour:02d}" for hour in range(24))
    assert [given["product"].names[group] for group in given["product"].of_row] == ["b", "a", "b", "b"]
    assert given["regime"].of_row.tolist() == [2, 0, 1, 2]


def test_regimes_are_terciles_whose_edge_belongs_to_the_livelier() -> None:
    regime = groupings(np.arange(4) * NS_PER_DAY, ["a"] * 4, np.array([1.0, 2.0, 3.0, 4.0]))[3]
    assert regime.of_row.tolist() == [0, 1, 2, 2]
    many = groupings(np.arange(90), ["a"] * 90, np.random.default_rng(1).random(90))[3]
    assert np.bincount(many.of_row).tolist() == [30, 30, 30]


def test_differences_by_group_are_those_of_the_rows_of_each_group() -> None:
    blocks = blocks_of([20] * 30)
    mine, theirs = clustered(30, 20, 1), clustered(30, 20, 2)
    of_row = np.arange(600) % 2
    given = differences_by(comparison.RowGroups("parity", ("even", "odd", "none"), of_row), mine, theirs, blocks, 3)
    assert [(group.name, group.rows) for group in given] == [("even", 300), ("odd", 300)]
    odd = of_row == 1
    assert (given[1].mine, given[1].theirs) == pytest.approx((mine[odd].mean(), theirs[odd].mean()))
    alone = mean_difference(mine[odd], theirs[odd], Blocks(blocks.of_row[odd], blocks.count), 3)
    ends = (given[1].difference.point, given[1].difference.low, given[1].difference.high)
    assert ends == pytest.approx((alone.point, alone.low, alone.high))


def test_a_group_in_few_blocks_has_no_interval() -> None:
    groups = comparison.RowGroups("day", ("first", "rest"), (np.arange(600) >= 100).astype(np.int64))
    given = differences_by(groups, clustered(30, 20, 1), clustered(30, 20, 2), blocks_of([20] * 30), 3)
    assert given[0].difference.low is None  # five blocks
    assert given[1].difference.low is not None
