"""By how much one kind of model is ahead of another on the walk-forward folds, and what ships by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from training.evaluation.blocks import Blocks, interval
from training.evaluation.figures import areas
from training.models import BASELINES, HAR, HAR_KINDS
from training.scored import Scored
from training.ticks import NS_PER_S

Floats = NDArray[np.float64]

LEAST_OF_A_CLASS = 10  # rows of a fold; fewer say nothing of ranks
RESAMPLES = 2000  # with 500 the ends of an interval move by 0.003 with the seed, and a decision with them


@dataclass(frozen=True, slots=True)
class Lead:
    """Difference in mean PR-AUC over the folds, and its paired block-bootstrap 95 % interval.

    low, high: None where too few draws define it.
    """

    point: float
    low: float | None
    high: float | None

    @property
    def shown(self) -> bool:
        """Ahead by more than chance."""
        return self.low is not None and self.low > 0

    @property
    def lost(self) -> bool:
        """Behind by more than chance."""
        return self.high is not None and self.high < 0

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.point:+.4f}, spikes are in too few blocks of time for an interval"
        return f"{self.point:+.4f}, paired 95 % interval {self.low:+.4f} to {self.high:+.4f}"


def lead(folds: Sequence[Scored], kind: str, rival: str, block_s: float, seed: int) -> Lead:
    """Of `kind` on `rival`; folds that do not count are passed over.

    Blocks are drawn within each fold, and both kinds see the same draws. One fold at least counts.
    """
    points: list[Floats] = []
    samples: list[Floats] = []
    for number, fold in counting(folds):
        blocks = Blocks.of(fold.time_ns, int(block_s * NS_PER_S))
        for draws, found in ((blocks.once(), points), (blocks.draws(RESAMPLES, [seed, number]), samples)):
            mine, theirs = (areas(fold.y, fold.probabilities[one], blocks.of_row, draws)[0] for one in (kind, rival))
            found.append(mine - theirs)
    # A draw without spikes in one fold is a draw of the others.
    stacked = np.stack(samples)
    defined = ~np.isnan(stacked)
    count = defined.sum(axis=0)
    means = np.divide(
        np.where(defined, stacked, 0.0).sum(axis=0), count, out=np.full(len(count), np.nan), where=count > 0
    )
    low, high = interval(means) or (None, None)
    return Lead(float(np.mean(points)), low, high)


def what_ships(
    folds: Sequence[Scored], servable: Sequence[str], asked: str | None, block_s: float, seed: int
) -> tuple[str, dict[str, Lead]]:
    """The kind to ship, and the lead on HAR of the kind that was asked for, or was the best (none of HAR's own kinds).

    The best has the highest mean PR-AUC of those that the schema can serve, the simpler of equals. Where its lead on
    HAR may be chance, HAR ships (docs/decisions/0016), in the form that the schema has the windows for.
    """
    har = next((kind for kind in (*HAR_KINDS, *BASELINES) if kind in servable), servable[0])
    if not counting(folds):
        return asked or har, {}
    best = asked or max(servable, key=lambda kind: mean_pr_auc(folds, kind))
    if best in HAR_KINDS or HAR not in folds[0].probabilities:
        return asked or (har if best in HAR_KINDS else best), {}
    ahead = lead(folds, best, HAR, block_s, seed)
    return asked or (best if ahead.shown else har), {best: ahead}


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
