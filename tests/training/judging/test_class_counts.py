from __future__ import annotations

import pytest

from training.judging.class_counts import too_few, unranked


@pytest.mark.parametrize(
    ("rows", "positives", "counted"),
    [
        (700, 0, "none of 700 rows is a spike"),
        (700, 1, "1 of 700 rows is a spike"),
        (700, 9, "9 of 700 rows are spikes"),
        (700, 10, ""),
        (700, 690, ""),
        (700, 691, "691 of 700 rows are spikes"),
        (1700, 1700, "all 1,700 rows are spikes"),
    ],
)
def test_ten_rows_of_each_class_are_the_least_that_a_ranking_takes(rows: int, positives: int, counted: str) -> None:
    assert too_few(rows, positives) == counted


def test_what_one_class_does_not_define_is_named_only_where_there_is_one() -> None:
    assert "not defined" not in unranked([("fold 1", 700, 3), ("final", 700, 90)])
    assert unranked([("final", 700, 0)]).endswith("not defined")
    assert unranked([("final", 700, 700)]).endswith("not defined, and where all are spikes every alert is right")
    assert unranked([("final", 700, 90)]) == ""
