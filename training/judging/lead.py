"""By how much one kind of model is ahead of another on the walk-forward folds, and what ships by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from common.paired_difference import PairedDifference
from training.judging.evaluation.blocks import Blocks, interval, mean_of_defined
from training.judging.evaluation.figures import areas
from training.judging.scored import Scored
from training.models import BASELINES, HAR, HAR_KINDS
from training.problem.ticks import NS_PER_S
from training.reporting.words import LEAST_OF_A_CLASS

Floats = NDArray[np.float64]

MINIMUM_FOLDS = 2  # that count; one fold is no walk-forward
RESAMPLES = 2000  # with 500 the ends of an interval move by 0.003 with the seed, and a decision with them


def lead(folds: Sequence[Scored], kind: str, rival: str, block_s: float, seed: int) -> PairedDifference:
    """Of `kind` on `rival`; folds that do not count are passed over.

    Blocks are drawn within each fold, and both kinds see the same draws. One fold at least counts.
    """
    points: list[Floats] = []
    samples: list[Floats] = []
    with_spikes = 0
    for number, fold in counting(folds):
        blocks = Blocks.of(fold.time_ns, int(block_s * NS_PER_S))
        with_spikes += len(np.unique(blocks.of_row[fold.y == 1]))
        for draws, found in ((blocks.once(), points), (blocks.draws(RESAMPLES, [seed, number]), samples)):
            mine, theirs = (areas(fold.y, fold.probabilities[one], blocks.of_row, draws)[0] for one in (kind, rival))
            found.append(mine - theirs)
    # A draw without spikes in one fold is a draw of the others.
    low, high = interval(mean_of_defined(samples)) or (None, None)
    return PairedDifference(float(np.mean(points)), low, high, with_spikes)


def what_ships(
    folds: Sequence[Scored], servable: Sequence[str], asked: str | None, block_s: float, seed: int
) -> tuple[str, dict[str, PairedDifference]]:
    """The kind to ship, and leads on HAR: of the kind that was asked for, or of all that have a better point.

    Ships, of the kinds that the schema can serve and that are ahead of HAR by more than chance, the one with the
    highest mean PR-AUC; where there is none, HAR (docs/decisions/0016), in the form that the schema has windows for.
    """
    har = next((kind for kind in (*HAR_KINDS, *BASELINES) if kind in servable), servable[0])
    if len(counting(folds)) < MINIMUM_FOLDS:
        return asked or har, {}
    means = {kind: mean_pr_auc(folds, kind) for kind in folds[0].probabilities}
    if HAR not in means:
        return asked or max(servable, key=lambda kind: means[kind]), {}
    rivals = [asked] if asked else [kind for kind in servable if means[kind] > means[HAR]]
    leads = {kind: lead(folds, kind, HAR, block_s, seed) for kind in rivals if kind not in HAR_KINDS}
    shown = [kind for kind, one in leads.items() if one.significantly_better]
    return asked or max(shown, key=lambda kind: means[kind], default=har), leads


def mean_pr_auc(folds: Sequence[Scored], kind: str) -> float:
    """Over the folds that count; one at least does."""
    return float(np.mean([average_precision_score(fold.y, fold.probabilities[kind]) for _, fold in counting(folds)]))


def counting(folds: Sequence[Scored]) -> list[tuple[int, Scored]]:
    """Those with enough rows of both classes, and their numbers, which seed the draws."""
    return [
        (number, fold)
        for number, fold in enumerate(folds)
        if LEAST_OF_A_CLASS <= np.count_nonzero(fold.y) <= len(fold) - LEAST_OF_A_CLASS
    ]
