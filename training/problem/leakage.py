"""Alarms for what must never happen: knowing the answer before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import TrainingError
from training.problem.splits import Split, SplitRules

# Honest scores on this problem are 0.1 to 0.65 (published siblings with leaks: 0.98 and more).
SUSPICIOUS_PR_AUC = 0.95


def check_split(time_ns: NDArray[np.int64], split: Split, rules: SplitRules) -> None:
    """Raises TrainingError where a training label window (t, t + horizon] touches a test row's
    feature window (s - window, s]. Written from the windows, not from the cuts that splits.py makes.
    """
    if len(split.train) == 0 or len(split.test) == 0:
        return
    last_label_end = int(time_ns[split.train].max()) + rules.horizon_ns
    first_feature_start = int(time_ns[split.test].min()) - rules.window_ns
    if last_label_end >= first_feature_start:
        overlap_s = (last_label_end - first_feature_start) / 1e9
        raise TrainingError(f"leak: training labels reach {overlap_s:.3f} s into the feature windows of the test part")


def check_score(name: str, pr_auc: float) -> None:
    """Raises TrainingError for a score too good to be true."""
    if pr_auc > SUSPICIOUS_PR_AUC:
        raise TrainingError(
            f"leak: {name} scores a PR-AUC of {pr_auc:.3f}; above {SUSPICIOUS_PR_AUC} this problem's score means that "
            "a feature knows the future"
        )


def rows_that_see_ahead(
    compute: Callable[[int], NDArray[np.float64]], ticks: int, cuts: Sequence[int]
) -> list[tuple[int, int]]:
    """(row, column) of feature values that change when later ticks are taken away.

    compute: the features (n, columns) of the first n ticks. A feature that looks only back gives row
    n - 1 the same bits whether or not ticks follow.
    """
    whole = compute(ticks)
    found: list[tuple[int, int]] = []
    for cut in cuts:
        differs = compute(cut)[cut - 1].view(np.uint64) != whole[cut - 1].view(np.uint64)
        found.extend((cut - 1, int(column)) for column in np.flatnonzero(differs))
    return found
