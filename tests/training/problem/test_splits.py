from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.errors import InputError
from common.schema import CORE_1, FULL_1, FULL_2
from pipeline.features.engine import reach_ns
from training.problem.splits import Split, SplitRules, final_split, walk_forward
from training.problem.target import NS_PER_S

RULES = SplitRules(horizon_ns=60 * NS_PER_S, window_ns=60 * NS_PER_S, final_share=0.2, folds=4)


def row_times(seed: int) -> NDArray[np.int64]:
    """A few thousand rows with holes between recordings, some at equal times (two products)."""
    random = np.random.default_rng(seed)
    steps = random.choice([0, 1, 2, 900], size=3000, p=[0.1, 0.6, 0.298, 0.002])
    return np.cumsum(steps) * NS_PER_S


def all_splits(time_ns: NDArray[np.int64]) -> list[Split]:
    return [final_split(time_ns, RULES), *walk_forward(time_ns, RULES)]


@pytest.mark.parametrize("seed", range(5))
def test_no_training_label_window_touches_a_test_feature_window(seed: int) -> None:
    time_ns = row_times(seed)
    for split in all_splits(time_ns):
        for tested in time_ns[split.test][::50]:
            label_ends = time_ns[split.train] + RULES.horizon_ns
            assert np.all(label_ends < tested - RULES.window_ns)


@pytest.mark.parametrize("seed", range(5))
def test_every_earlier_row_is_trained_on_purged_or_embargoed(seed: int) -> None:
    time_ns = row_times(seed)
    for split in all_splits(time_ns):
        earlier = np.count_nonzero(time_ns < time_ns[split.test[0]])
        assert len(split.train) + split.purged + split.embargoed == earlier


def test_purged_rows_are_those_whose_label_window_reaches_in() -> None:
    time_ns = np.arange(1000) * NS_PER_S
    split = final_split(time_ns, RULES)
    assert split.test[0] == 800
    assert (split.purged, split.embargoed) == (60, 60)
    assert split.train[-1] == 679


def test_the_final_part_is_the_last_share_of_rows() -> None:
    split = final_split(np.arange(1000) * NS_PER_S, RULES)
    assert split.test.tolist() == list(range(800, 1000))


def test_folds_test_each_row_after_the_first_block_once_and_in_order() -> None:
    time_ns = row_times(1)
    tested = np.concatenate([split.test for split in walk_forward(time_ns, RULES)])
    assert np.array_equal(tested, np.arange(tested[0], len(time_ns)))
    assert len(walk_forward(time_ns, RULES)) == RULES.folds


def test_rows_of_one_time_stay_on_one_side_of_a_border() -> None:
    time_ns = np.repeat(np.arange(500), 2) * NS_PER_S
    for split in all_splits(time_ns):
        assert time_ns[split.test[0]] > time_ns[split.test[0] - 1]


def test_a_hole_before_the_test_part_purges_nothing() -> None:
    time_ns = np.concatenate([np.arange(800), 10_000 + np.arange(200)]) * NS_PER_S
    split = final_split(time_ns, RULES)
    assert (len(split.train), split.purged, split.embargoed) == (800, 0, 0)


def test_one_row_cannot_be_split() -> None:
    with pytest.raises(InputError, match="too little data: 1 usable rows"):
        final_split(np.array([1]), RULES)


@st.composite
def recordings(draw: st.DrawFn) -> tuple[NDArray[np.int64], SplitRules]:
    """Row times with ties, bursts and holes of up to a day, and rules of any of the schemas."""
    steps = draw(
        st.lists(
            st.one_of(
                st.sampled_from([0, 1, NS_PER_S]),
                st.integers(0, 10 * NS_PER_S),
                st.integers(0, 86_400 * NS_PER_S),
            ),
            min_size=2,
            max_size=200,
        )
    )
    schema = draw(st.sampled_from([CORE_1, FULL_1, FULL_2]))
    rules = SplitRules(
        horizon_ns=draw(st.sampled_from([1, 60, 300])) * NS_PER_S,
        window_ns=reach_ns(schema),
        final_share=draw(st.floats(0.01, 0.9)),
        folds=draw(st.integers(1, 8)),
    )
    return np.cumsum(np.array(steps, np.int64)), rules


@given(recordings())
@settings(max_examples=150, deadline=None)
def test_whatever_the_times_no_training_label_touches_a_test_window_and_no_row_is_lost(
    recording: tuple[NDArray[np.int64], SplitRules],
) -> None:
    time_ns, rules = recording
    for split in [final_split(time_ns, rules), *walk_forward(time_ns, rules)]:
        if len(split.test) == 0:
            continue
        first = time_ns[split.test].min()
        # Label windows (t, t + horizon] of training, feature windows (t - window, t] of the test part.
        assert np.all(time_ns[split.train] + rules.horizon_ns < first - rules.window_ns)
        assert len(split.train) + split.purged + split.embargoed == np.count_nonzero(time_ns < first)
        assert not np.isin(time_ns[split.train], time_ns[split.test]).any()
