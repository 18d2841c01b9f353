"""The paired difference of two kinds of model on the walk-forward folds, and the kind that ships by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from common.paired_difference import PairedDifference
from training.judging.class_counts import MIN_ROWS_PER_CLASS
from training.judging.evaluation.blocks import DECISION_RESAMPLES, Blocks, interval, mean_of_defined
from training.judging.evaluation.figures import areas
from training.judging.scored_part import Scored
from training.models import BASELINES, HAR, HAR_KINDS
from training.problem.ticks import NS_PER_S

Floats = NDArray[np.float64]

MIN_FOLDS = 2  # usable folds; a single fold is no walk-forward


def paired_difference(folds: Sequence[Scored], kind: str, rival: str, block_s: float, seed: int) -> PairedDifference:
    """The mean PR-AUC of `kind` minus that of `rival` over the usable folds; at least one fold must be usable.

    Blocks are drawn within each fold, and both kinds see the same draws.
    """
    points: list[Floats] = []
    samples: list[Floats] = []
    with_spikes = 0
    for number, fold in usable_folds(folds):
        blocks = Blocks.of(fold.time_ns, int(block_s * NS_PER_S))
        with_spikes += len(np.unique(blocks.of_row[fold.y == 1]))
        resampled = blocks.draws(DECISION_RESAMPLES, [seed, number])
        for draws, differences in ((blocks.once(), points), (resampled, samples)):
            own, other = (areas(fold.y, fold.probabilities[name], blocks.of_row, draws)[0] for name in (kind, rival))
            differences.append(own - other)
    # If a draw has no spike in a fold, the mean is over its other folds.
    low, high = interval(mean_of_defined(samples)) or (None, None)
    return PairedDifference(float(np.mean(points)), low, high, with_spikes)


def what_ships(
    folds: Sequence[Scored], servable: Sequence[str], requested: str | None, block_s: float, seed: int
) -> tuple[str, dict[str, PairedDifference]]:
    """The kind to ship, and differences to HAR: of the requested kind, or of all kinds with a higher mean PR-AUC.

    A kind ships if the schema can serve it, if it is better than HAR by more than chance, and if its mean PR-AUC is
    the highest of such kinds. If there is none, HAR ships (docs/decisions/0016), in the form that the schema allows.
    """
    har = next((kind for kind in (*HAR_KINDS, *BASELINES) if kind in servable), servable[0])
    if len(usable_folds(folds)) < MIN_FOLDS:
        return requested or har, {}
    means = {kind: mean_pr_auc(folds, kind) for kind in folds[0].probabilities}
    if HAR not in means:
        return requested or max(servable, key=lambda kind: means[kind]), {}
    rivals = [requested] if requested else [kind for kind in servable if means[kind] > means[HAR]]
    differences = {kind: paired_difference(folds, kind, HAR, block_s, seed) for kind in rivals if kind not in HAR_KINDS}
    better = [kind for kind, difference in differences.items() if difference.significantly_better]
    return requested or max(better, key=lambda kind: means[kind], default=har), differences


def mean_pr_auc(folds: Sequence[Scored], kind: str) -> float:
    """Over the usable folds; at least one fold must be usable."""
    return float(
        np.mean([average_precision_score(fold.y, fold.probabilities[kind]) for _, fold in usable_folds(folds)])
    )


def usable_folds(folds: Sequence[Scored]) -> list[tuple[int, Scored]]:
    """The folds with enough rows of both classes, each with its number, which seeds the draws."""
    return [
        (number, fold)
        for number, fold in enumerate(folds)
        if MIN_ROWS_PER_CLASS <= np.count_nonzero(fold.y) <= len(fold) - MIN_ROWS_PER_CLASS
    ]
