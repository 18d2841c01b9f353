from __future__ import annotations

import numpy as np

from training.problem.sampling import first_of_each

SECOND_NS = 1_000_000_000


def test_keeps_the_first_row_of_each_second_and_product() -> None:
    time_ns = np.array([0, 1, SECOND_NS - 1, SECOND_NS, SECOND_NS + 5, 3 * SECOND_NS])
    product = np.array([0, 1, 0, 0, 1, 1])
    assert first_of_each(product, time_ns, SECOND_NS).tolist() == [True, True, False, True, True, True]


def test_of_rows_at_one_time_the_first_is_kept_whatever_the_order_of_the_rest() -> None:
    time_ns = np.array([5, 3, 3, 4])
    assert first_of_each(np.zeros(4, np.int64), time_ns, SECOND_NS).tolist() == [False, True, False, False]


def test_never_leaves_two_rows_in_a_second_and_loses_no_second() -> None:
    random = np.random.default_rng(0)
    time_ns = random.integers(0, 500 * SECOND_NS, size=2000)
    product = random.integers(0, 3, size=2000)
    keep = first_of_each(product, time_ns, SECOND_NS)
    kept = list(zip(product[keep], time_ns[keep] // SECOND_NS, strict=True))
    assert len(set(kept)) == len(kept)
    assert set(kept) == set(zip(product, time_ns // SECOND_NS, strict=True))


def test_a_period_of_zero_keeps_all() -> None:
    assert first_of_each(np.zeros(3, np.int64), np.zeros(3, np.int64), 0).all()
