"""The two areas are scikit-learn's, for weighted rows too."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from training.judging.blocks import Blocks
from training.judging.figures import areas


def sample(rows: int, seed: int, ties: bool) -> tuple[NDArray[np.int8], NDArray[np.float64], Blocks]:
    random = np.random.default_rng(seed)
    y = (random.random(rows) < 0.2).astype(np.int8)
    probability = np.clip(0.2 + 0.2 * y + random.normal(scale=0.2, size=rows), 0, 1)
    return y, probability.round(1) if ties else probability, Blocks.of(np.arange(rows), 10)


@pytest.mark.parametrize("ties", [False, True])
def test_areas_are_scikit_learns(ties: bool) -> None:
    y, probability, blocks = sample(2000, 3, ties)
    pr_auc, roc_auc = areas(y, probability, blocks.of_row, blocks.once())
    assert pr_auc == pytest.approx(average_precision_score(y, probability), rel=1e-12)
    assert roc_auc == pytest.approx(roc_auc_score(y, probability), rel=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_a_draw_counts_a_blocks_rows_as_often_as_it_drew_the_block(ties: bool) -> None:
    y, probability, blocks = sample(500, 4, ties)
    draws = blocks.draws(5, seed=0)
    pr_auc, roc_auc = areas(y, probability, blocks.of_row, draws)
    for number, draw in enumerate(draws):
        weight = draw[blocks.of_row]
        expected = (
            average_precision_score(y, probability, sample_weight=weight),
            roc_auc_score(y, probability, sample_weight=weight),
        )
        assert (pr_auc[number], roc_auc[number]) == pytest.approx(expected, rel=1e-12)


def test_a_constant_scores_the_base_rate_and_a_half() -> None:
    y = np.array([0, 0, 1, 0, 1, 0, 0, 1, 0, 0], np.int8)
    assert np.ravel(areas(y, np.full(10, 0.1), np.zeros(10, np.int64), np.ones((1, 1)))) == pytest.approx([0.3, 0.5])
    assert np.ravel(areas(y, y.astype(float), np.zeros(10, np.int64), np.ones((1, 1)))) == pytest.approx([1, 1])


@pytest.mark.parametrize("only", [0, 1])
def test_a_draw_of_a_single_class_defines_no_area(only: int) -> None:
    draws = np.array([[1.0, 0.0], [0.0, 1.0]])
    pr_auc, roc_auc = areas(
        np.array([1, 0, only, only], np.int8), np.array([0.9, 0.1, 0.5, 0.2]), np.array([0, 0, 1, 1]), draws
    )
    assert pr_auc[0] == roc_auc[0] == 1.0
    assert np.isnan([pr_auc[1], roc_auc[1]]).all()


def test_five_hundred_draws_of_sixty_thousand_rows_take_less_than_seconds() -> None:
    y, probability, blocks = sample(60_000, 6, ties=False)
    draws = blocks.draws(500, 0)
    areas(y, probability, blocks.of_row, draws[:1])  # compiles
    began = time.perf_counter()
    areas(y, probability, blocks.of_row, draws)
    assert time.perf_counter() - began < 3
