"""Each check of the gate on both sides of each of its limits."""

from dataclasses import replace

import numpy as np
import pytest

from training.judging import gate
from training.judging.blocks import Blocks
from training.judging.comparison import mean_interval
from training.judging.gate import AtSize, GateLimits, Tolerance

from .market import HAR, crps, fit, market, of_test, split

LIMITS = GateLimits()
BLOCKS = Blocks(np.repeat(np.arange(40), 50), 40)
FEW = Blocks(np.repeat(np.arange(5), 400), 5)
ROWS = 2000


def noise(seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, ROWS)


def share(count: int) -> np.ndarray:
    """1 for as many of each 50 rows, so that every block has the same share."""
    return (np.arange(ROWS) % 50 < count).astype(np.float64)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_model_with_a_better_feature_beats_har_in_a_real_fit(seed: int) -> None:
    given = market(seed)
    model, har = crps(given.features, given.outcome_bps), crps(given.features[:, HAR], given.outcome_bps)
    blocks = of_test(given.blocks)
    assert gate.skill(model, har, blocks, False, LIMITS).passed
    assert not gate.skill(har, model, blocks, False, LIMITS).passed
    useless = crps(np.column_stack([given.features[:, HAR], given.noise]), given.outcome_bps)
    assert not gate.skill(useless, har, blocks, False, LIMITS).passed


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_real_fit_covers_what_it_claims_and_an_overconfident_fit_does_not(seed: int) -> None:
    from training.judging.scores import covered, pit_bounds

    given = market(seed)
    train, test = split()
    model = fit(given.features, given.outcome_bps, train, test)
    blocks = of_test(given.blocks)
    for forecasts, passes in ((model, True), (replace(model, scale=0.7 * model.scale), False)):
        bounds = pit_bounds(forecasts, given.outcome_bps[test], model.floor_bps)
        check = gate.coverage(covered(*bounds, 0.8), covered(*bounds, 0.95), blocks, LIMITS)
        assert check.passed == passes, check.text


def test_a_better_mean_is_not_enough() -> None:
    har = noise(1)
    unsure = har - 0.001 + np.where(BLOCKS.of_row % 2 == 0, 0.5, -0.5)
    assert unsure.mean() < har.mean()
    assert not gate.skill(unsure, har, BLOCKS, False, LIMITS).passed
    assert gate.skill(har - 0.1 + noise(2, 0.1), har, BLOCKS, False, LIMITS).passed
    assert not gate.skill(har, har, BLOCKS, False, LIMITS).passed


def test_five_blocks_show_no_skill() -> None:
    har = noise(1)
    assert not gate.skill(har - 1, har, FEW, False, LIMITS).passed


def test_har_ships_if_no_kind_beats_it() -> None:
    assert gate.skill(noise(1), noise(1), BLOCKS, True, LIMITS).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    scores = noise(1)
    broken = scores.copy()
    broken[7] = bad
    for check in (
        gate.skill(broken, scores + 9, BLOCKS, False, LIMITS),
        gate.skill(broken, scores, BLOCKS, True, LIMITS),
        gate.skill(scores - 9, broken, BLOCKS, False, LIMITS),
        gate.champion(broken, scores, "7", BLOCKS, LIMITS),
        gate.champion(scores, broken, "7", BLOCKS, LIMITS),
        gate.coverage(broken, share(47), BLOCKS, LIMITS),
        gate.coverage(share(40), broken, BLOCKS, LIMITS),
        gate.calibration([AtSize(1.0, share(5) == 1, broken, 0.1)], BLOCKS, LIMITS),
    ):
        assert not check.passed
        assert "finite" in check.text


@pytest.mark.parametrize(
    ("of_80", "of_95", "passed"),
    [
        (40, 47, True),
        (39, 47, True),
        (41, 48, True),
        (38, 47, False),
        (42, 47, False),
        (40, 46, False),
        (40, 49, False),
    ],
)
def test_coverage_is_within_two_points(of_80: int, of_95: int, passed: bool) -> None:
    """Shares of fifty: 78, 80 and 82 % pass, 76 and 84 % do not; 94 and 96 % pass, 92 and 98 % do not."""
    limits = replace(LIMITS, coverage_80=Tolerance(0.0201, 0.12), coverage_95=Tolerance(0.0201, 0.07))
    assert gate.coverage(share(of_80), share(of_95), BLOCKS, limits).passed is passed


def test_the_text_of_coverage_has_the_interval_of_the_share_or_the_blocks() -> None:
    text = gate.coverage(share(42), share(47), BLOCKS, LIMITS).text
    assert "80% intervals cover 84.0% [84.0%, 84.0%]" in text
    assert "95% intervals cover 94.0% [94.0%, 94.0%]" in text
    assert (
        "80% intervals cover 84.0% (no interval: 5 blocks of time)"
        in gate.coverage(share(42), share(47), FEW, LIMITS).text
    )


def test_coverage_is_refused_only_if_shown_to_be_off() -> None:
    """A point of 4 % off passes if blocks vary so much that it may be chance."""
    steady = share(42)
    varied = np.where(BLOCKS.of_row < 34, 1.0, 0.0)  # 85 %, whole blocks covered or not
    assert not gate.coverage(steady, share(47), BLOCKS, LIMITS).passed
    assert gate.coverage(varied, share(47), BLOCKS, LIMITS).passed


@pytest.mark.parametrize(("limit", "passed"), [(0.1201, True), (0.1199, False)])
def test_coverage_beyond_the_most_is_refused_whatever_the_interval(limit: float, passed: bool) -> None:
    limits = replace(LIMITS, coverage_80=Tolerance(0.02, limit), coverage_95=Tolerance(0.02, 0.07))
    assert gate.coverage(share(34), share(47), FEW, limits).passed is passed  # 68 %


def test_limits_are_those_of_the_decision() -> None:
    assert GateLimits() == GateLimits(
        Tolerance(0.02, 0.12), Tolerance(0.02, 0.07), Tolerance(0.02, 0.10), 0.02, 1e-6, 10.0, 0
    )


def at_size(event_of_fifty: int, probability: float, base_rate: float = 0.2) -> AtSize:
    return AtSize(2.0, share(event_of_fifty) == 1, np.full(ROWS, probability), base_rate)


@pytest.mark.parametrize(
    ("probability", "passed"), [(0.2, True), (0.2199, True), (0.2201, False), (0.1801, True), (0.1799, False)]
)
def test_mean_probability_is_within_two_points_of_the_rate(probability: float, passed: bool) -> None:
    """The base rate of the training rows is far off, so that no log loss decides."""
    assert gate.calibration([at_size(10, probability, 0.9)], BLOCKS, LIMITS).passed is passed


def test_a_single_size_out_of_five_refuses() -> None:
    sizes = [at_size(10, 0.2)] * 4 + [at_size(10, 0.3)]
    given = gate.calibration(sizes, BLOCKS, LIMITS)
    assert not given.passed
    assert "at 2 bps the mean probability is off by -0.1000" in given.text


@pytest.mark.parametrize(("most", "passed"), [(0.1001, True), (0.0999, False)])
def test_calibration_beyond_the_most_is_refused_with_few_blocks(most: float, passed: bool) -> None:
    limits = replace(LIMITS, calibration=Tolerance(0.02, most))
    assert gate.calibration([at_size(10, 0.3, 0.9)], FEW, limits).passed is passed


def test_probabilities_worse_than_the_base_rate_are_refused() -> None:
    event = share(10) == 1
    confident = np.where(np.arange(ROWS) % 2 == 0, 0.4, 0.0001)  # right on average, and about nothing
    given = gate.calibration([AtSize(2.0, event, confident, 0.2)], BLOCKS, LIMITS)
    assert not given.passed
    assert "log loss is worse than that of the base rate" in given.text
    assert gate.calibration([at_size(10, 0.2)], BLOCKS, LIMITS).passed  # equal to it


@pytest.mark.parametrize(
    ("error", "passed"), [(0.9e-6, True), (1e-6, True), (1.1e-6, False), (np.inf, False), (np.nan, False)]
)
def test_graph_and_trained_form_differ_by_a_millionth_at_most(error: float, passed: bool) -> None:
    check = gate.parity(error, 1234, LIMITS)
    assert check.passed is passed
    assert "on 1,234 rows" in check.text


def test_latency_is_at_most_the_limit() -> None:
    assert gate.latency(10.0, LIMITS).passed
    assert not gate.latency(10.01, LIMITS).passed
    assert not gate.latency(float("nan"), LIMITS).passed


def test_a_candidate_must_be_shown_to_be_no_worse_than_the_champion() -> None:
    served = 1 + noise(1, 0.1)
    margin = LIMITS.champion_margin * served.mean()
    assert gate.champion(served, served, "7", BLOCKS, LIMITS).passed
    assert gate.champion(served - 0.5, served, "7", BLOCKS, LIMITS).passed
    unsure = served + np.where(BLOCKS.of_row % 2 == 0, 0.5, -0.5)
    high = mean_interval(unsure - served, BLOCKS, 0).high
    assert high is not None
    assert high > margin
    given = gate.champion(unsure, served, "7", BLOCKS, LIMITS)
    assert not given.passed
    assert "not shown to be no worse" in given.text


def test_a_candidate_that_is_worse_is_refused_even_within_the_margin() -> None:
    served = 1 + noise(1, 0.1)
    given = gate.champion(served + 0.001, served, "7", BLOCKS, LIMITS)
    assert not given.passed
    assert given.text.startswith("worse: ")


@pytest.mark.parametrize(("factor", "passed"), [(1.001, True), (0.999, False)])
def test_the_champions_margin_is_a_share_of_its_crps(factor: float, passed: bool) -> None:
    served = 3 + noise(1, 0.1)
    mine = served + noise(3, 0.2)
    high = mean_interval(mine - served, BLOCKS, 0).high
    assert high is not None
    limits = replace(LIMITS, champion_margin=factor * high / served.mean())
    assert gate.champion(mine, served, "7", BLOCKS, limits).passed is passed


def test_a_champion_that_has_seen_all_rows_cannot_be_compared() -> None:
    assert not gate.champion(np.zeros(0), np.zeros(0), "7", Blocks(np.zeros(0, np.int64), 0), LIMITS).passed


def test_the_score_of_an_old_style_champion_is_named() -> None:
    served = 1 + noise(1, 0.1)
    check = gate.champion(served - 0.5, served, "3", BLOCKS, LIMITS, "log loss at 2.64 bps")
    assert check.passed
    assert check.text.startswith("log loss at 2.64 bps -0.5000 ")


def test_few_blocks_show_nothing_about_a_champion() -> None:
    served = 1 + noise(1, 0.1)
    assert not gate.champion(served - 0.1, served, "7", FEW, LIMITS).passed


def test_refusals_name_the_checks_that_did_not_pass() -> None:
    checks = [gate.latency(9.0, LIMITS), gate.latency(11.0, LIMITS)]
    assert gate.refusals(checks) == ["latency: a row takes 11.0 µs in ONNX Runtime; at most 10 µs is allowed"]
