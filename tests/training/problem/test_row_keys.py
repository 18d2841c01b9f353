from __future__ import annotations

import numpy as np

from training.problem.row_keys import ANY_SEQUENCE, Keys, match


def keys(*rows: tuple[int, int, int]) -> Keys:
    product, time_ns, sequence = np.array(rows, np.int64).reshape(-1, 3).T
    return Keys(product, time_ns, sequence)


def test_a_row_finds_the_prediction_of_its_product_time_and_sequence_number() -> None:
    given = keys((0, 10, 1), (1, 10, 2), (0, 10, 3), (0, 20, 4))
    assert match(keys((0, 10, 3), (0, 20, 4), (1, 10, 2), (1, 20, 4), (0, 10, 9)), given).tolist() == [2, 3, 1, -1, -1]


def test_without_a_sequence_number_the_first_tick_of_that_time_is_meant() -> None:
    given = keys((0, 10, 8), (0, 10, 5), (0, 10, 9))
    assert match(keys((0, 10, ANY_SEQUENCE)), given).tolist() == [1]
    assert match(keys((0, 10, 7)), keys((0, 10, ANY_SEQUENCE))).tolist() == [0]


def test_of_a_prediction_delivered_twice_the_first_is_taken() -> None:
    assert match(keys((0, 10, 1)), keys((0, 5, 0), (0, 10, 1), (0, 10, 1))).tolist() == [1]


def test_nothing_is_found_among_no_predictions() -> None:
    assert match(keys((0, 10, 1)), keys()).tolist() == [-1]
    assert len(match(keys(), keys((0, 10, 1)))) == 0
