"""Each leak is built on simulated data with a real fit and refused; the honest data pass, over several seeds."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from common.check import Check
from training.judging import leaks
from training.judging.blocks import Blocks
from training.judging.scores import crps_log

from .market import BLOCK_NS, HAR, NAMES, ROWS, STEP_NS, STEPS, Market, crps, fit, late, market, of_test, split
from .normal import FLOOR_BPS

SEEDS = (1, 2, 3, 4)
SECOND_NS = 10**9
honest = cache(market)


def shuffled(given: Market) -> Market:
    """Features and outcomes of rows change places together; the times stay in order."""
    order = np.random.default_rng(9).permutation(ROWS)
    return replace(given, features=given.features[order], outcome_bps=given.outcome_bps[order])


def with_copy_of_the_future(given: Market) -> Market:
    """The last column becomes the log outcome with noise, of correlation 0.9."""
    log_outcome = np.log(given.outcome_bps)
    noise = np.random.default_rng(9).normal(size=ROWS) * log_outcome.std() * np.sqrt(1 / 0.81 - 1)
    features = given.features.copy()
    features[:, -1] = log_outcome + noise
    assert np.corrcoef(features[:, -1], log_outcome)[0, 1] == pytest.approx(0.9, abs=0.02)
    return replace(given, features=features)


def with_late_features(given: Market, rows: int) -> Market:
    return replace(given, features=late(given.features, rows))


def repeated(given: Market, copied: bool) -> Check:
    train, test = split()
    rows = np.column_stack([given.features, given.outcome_bps])
    training = np.concatenate([rows[test], rows[train]]) if copied else rows[train]
    return leaks.repeated_rows(
        training, rows[test], leaks.moves(given.features[test], given.outcome_bps[test], FLOOR_BPS)
    )


def neighbours(given: Market) -> Check:
    return leaks.neighbours(given.outcome_bps, np.zeros(ROWS, np.int64), given.blocks, 0)


def look_ahead(given: Market, original: Market) -> Check:
    return leaks.look_ahead(NAMES, given.features, leaks.sampled_rows(ROWS, 0), original.recompute)


def foresight(given: Market) -> Check:
    product = np.zeros(ROWS, np.int64)
    outcomes = [
        leaks.shifted_outcomes(given.time_ns, product, given.outcome_bps, windows * STEPS * STEP_NS, 0)
        for windows in leaks.WINDOWS
    ]
    return leaks.foresight(NAMES, given.features, outcomes, given.blocks, 0)


def hindsight(given: Market) -> Check:
    har = given.features[:, HAR]
    return leaks.hindsight(
        crps(har, given.outcome_bps), crps(late(har, STEPS), given.outcome_bps), of_test(given.blocks), 0
    )


def placebo(given: Market, in_sample: bool) -> Check:
    """in_sample: the fit sees the test rows too, with enough features to learn them by heart."""
    train, test = split()
    many = np.column_stack([given.features, np.random.default_rng(8).normal(size=(ROWS, 300 if in_sample else 1))])

    def fit_and_score(outcome_bps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = np.concatenate([train, test]) if in_sample else train
        model = fit(many, outcome_bps, seen, test)
        climatology = fit(np.zeros((ROWS, 0)), outcome_bps, train, test)
        return crps_log(model, outcome_bps[test]), crps_log(climatology, outcome_bps[test])

    return leaks.placebo(fit_and_score, given.outcome_bps, (given.blocks, of_test(given.blocks)), 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_honest_data_pass_every_check(seed: int) -> None:
    given = honest(seed)
    checks = [
        repeated(given, copied=False),
        neighbours(given),
        look_ahead(given, given),
        foresight(given),
        hindsight(given),
        placebo(given, in_sample=False),
    ]
    assert [check.text for check in checks if not check.passed] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_test_part_copied_to_an_earlier_date_is_refused(seed: int) -> None:
    given = repeated(honest(seed), copied=True)
    assert not given.passed
    assert f"{ROWS // 2:,} of {ROWS // 2:,}" in given.text


@pytest.mark.parametrize("seed", SEEDS)
def test_shuffled_rows_are_refused(seed: int) -> None:
    given = shuffled(honest(seed))
    assert not neighbours(given).passed
    assert not hindsight(given).passed
    assert not look_ahead(given, honest(seed)).passed


@pytest.mark.parametrize("seed", SEEDS)
def test_a_noisy_copy_of_the_future_is_refused(seed: int) -> None:
    given = with_copy_of_the_future(honest(seed))
    checks = foresight(given), look_ahead(given, honest(seed))
    assert [check.passed for check in checks] == [False, False]
    assert all("noise" in check.text for check in checks)
    assert "np.float64" not in checks[1].text
    assert "volatility" not in checks[0].text


@pytest.mark.parametrize("rows", [5, 30])
@pytest.mark.parametrize("seed", SEEDS)
def test_features_of_later_rows_are_refused(seed: int, rows: int) -> None:
    """By the engine, and by outcomes alone: 25 s are within the outcome's window, 150 s are after it."""
    given = with_late_features(honest(seed), rows)
    assert not look_ahead(given, honest(seed)).passed
    assert not foresight(given).passed


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fit_that_sees_the_test_rows_is_refused(seed: int) -> None:
    assert not placebo(honest(seed), in_sample=True).passed


def test_features_a_single_row_late_are_refused() -> None:
    assert not look_ahead(with_late_features(honest(1), 1), honest(1)).passed


def test_a_single_repeated_row_is_refused() -> None:
    rows = np.random.default_rng(1).normal(size=(50, 3))
    moving = np.ones(20, np.bool_)
    assert leaks.repeated_rows(rows[:30], rows[30:], moving).passed
    assert not leaks.repeated_rows(rows[:31], rows[30:], moving).passed
    moving[0] = False
    assert leaks.repeated_rows(rows[:31], rows[30:], moving).passed


def test_rows_that_differ_in_the_last_bit_or_column_are_no_repeats() -> None:
    row = np.array([[1.0, 2.0, 3.0]])
    for column in range(3):
        other = row.copy()
        other[0, column] = np.nextafter(other[0, column], 9)
        assert leaks.repeated_rows(row, other, np.ones(1, np.bool_)).passed
    assert leaks.repeated_rows(row, row[:, ::-1], np.ones(1, np.bool_)).passed


def test_zero_and_minus_zero_are_equal() -> None:
    assert not leaks.repeated_rows(np.array([[0.0, 1.0]]), np.array([[-0.0, 1.0]]), np.ones(1, np.bool_)).passed


def test_a_market_that_stands_still_does_not_move() -> None:
    features = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0], [1.0, 4.0]])
    outcome = np.array([1.0, 1.0, FLOOR_BPS, np.nextafter(FLOOR_BPS, 1)])
    assert leaks.moves(features, outcome, FLOOR_BPS).tolist() == [True, False, False, True]


def order(time_ns: list[int], product: list[int], events: dict[int, list[int]]) -> Check:
    return leaks.time_order(
        np.array(time_ns), np.array(product), {number: np.array(times) for number, times in events.items()}
    )


def test_rows_in_the_order_of_their_products_events_pass() -> None:
    assert order([5, 1, 9, 3], [0, 1, 0, 1], {0: [1, 5, 9], 1: [1, 2, 3]}).passed


@pytest.mark.parametrize(
    ("time_ns", "product", "reason"),
    [
        ([5, 5], [0, 0], "1 rows of product 0 are not later than the row before"),
        ([9, 5], [0, 0], "1 rows of product 0 are not later than the row before"),
        ([4, 5], [0, 0], "1 rows of product 0 are at times without an event"),
        ([5, 10], [0, 0], "1 rows of product 0 are at times without an event"),
        ([5, 1], [0, 1], "product 1 has rows and no events"),
    ],
)
def test_rows_out_of_order_or_without_an_event_are_refused(time_ns: list[int], product: list[int], reason: str) -> None:
    given = order(time_ns, product, {0: [1, 5, 9]})
    assert not given.passed
    assert reason in given.text


def test_a_product_without_events_is_refused() -> None:
    assert "2 rows of product 0" in order([1, 2], [0, 0], {0: []}).text


def test_sampled_rows_hold_the_ends() -> None:
    given = leaks.sampled_rows(10_000, 1)
    assert (given[0], given[-1]) == (0, 9_999)
    assert leaks.SAMPLED_ROWS <= len(given) <= leaks.SAMPLED_ROWS + 2
    assert leaks.sampled_rows(3, 1).tolist() == [0, 1, 2]


def test_look_ahead_compares_bits_and_names_row_and_column() -> None:
    features = np.array([[1.0, np.nan], [2.0, 3.0]])
    same = leaks.look_ahead(("a", "b"), features, np.array([0, 1]), lambda row: features[row])
    assert same.passed
    other = features.copy()
    other[1, 1] = np.nextafter(3.0, 4)
    given = leaks.look_ahead(("a", "b"), features, np.array([0, 1]), lambda row: other[row])
    assert not given.passed
    assert given.text.startswith("row 1: b is")


def test_a_shifted_outcome_is_that_of_the_nearest_row_within_tolerance() -> None:
    time_ns = np.array([0, 60, 61, 125]) * SECOND_NS
    outcome = np.array([1.0, 2.0, 3.0, 4.0])
    product = np.zeros(4, np.int64)
    later = leaks.shifted_outcomes(time_ns, product, outcome, 60 * SECOND_NS, 4 * SECOND_NS)
    assert later.tolist()[:1] + later.tolist()[2:3] == [2.0, 4.0]
    assert np.isnan(later[[1, 3]]).all()  # 5 s away; none after
    earlier = leaks.shifted_outcomes(time_ns, product, outcome, -60 * SECOND_NS, 5 * SECOND_NS)
    assert np.isnan(earlier[0])
    assert earlier[1:].tolist() == [1.0, 1.0, 3.0]


def test_a_shifted_outcome_is_of_the_same_product() -> None:
    time_ns = np.array([0, 60, 60]) * SECOND_NS
    given = leaks.shifted_outcomes(time_ns, np.array([0, 1, 0]), np.array([1.0, 2.0, 3.0]), 60 * SECOND_NS, 0)
    assert given[0] == 3.0
    assert np.isnan(given[1:]).all()


def test_foresight_ignores_rows_without_outcomes_and_constant_columns() -> None:
    given = honest(1)
    features = given.features.copy()
    features[:, 0] = 1.0
    features[7, 1] = np.nan
    assert foresight(replace(given, features=features)).passed


def test_without_a_row_in_three_windows_foresight_is_refused() -> None:
    nothing = np.full(4, np.nan)
    blocks = Blocks(np.arange(4), 4)
    assert not leaks.foresight(("a",), np.ones((4, 1)), (nothing, np.ones(4), np.ones(4)), blocks, 0).passed


def test_a_slow_trend_is_no_foresight() -> None:
    """A rising clock is more correlated with later windows: with the next window still more than with its own."""
    given = honest(2)
    features = given.features.copy()
    features[:, -1] = np.arange(ROWS)
    rising = given.outcome_bps * np.exp(np.arange(ROWS) / 4000)
    assert foresight(replace(given, features=features, outcome_bps=rising)).passed


def test_permuted_outcomes_are_the_same_values_in_other_places() -> None:
    blocks = Blocks.of(np.arange(100) * STEP_NS, BLOCK_NS // 10)
    outcome = np.arange(100.0)
    mixed = leaks.permuted_outcomes(outcome, blocks, 3)
    assert sorted(mixed) == outcome.tolist()
    assert (np.diff(mixed) == 1).sum() >= 100 - 2 * blocks.count - 1  # blocks stay whole
    assert (mixed == outcome).sum() < 50
    assert (mixed == leaks.permuted_outcomes(outcome, blocks, 3)).all()
