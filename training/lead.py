"""By how much one kind of model is ahead of another on the walk-forward folds, and what ships by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from training.evaluation.blocks import Blocks, interval, mean_of_defined
from training.evaluation.figures import areas
from training.evaluation.words import LEAST_OF_A_CLASS, model_name
from training.models import BASELINES, HAR, HAR_KINDS
from training.scored import Scored
from training.ticks import NS_PER_S

Floats = NDArray[np.float64]

MINIMUM_FOLDS = 2  # that count; one fold is no walk-forward
# With fewer independent pieces of evidence a bootstrap says "more than chance" too often: from four blocks in one case
# of ten (Cameron, Gelbach and Miller 2008, "Bootstrap-based improvements for inference with clustered errors").
LEAST_BLOCKS = 20
RESAMPLES = 2000  # with 500 the ends of an interval move by 0.003 with the seed, and a decision with them


@dataclass(frozen=True, slots=True)
class Lead:
    """Difference in mean PR-AUC over the folds, and its paired block-bootstrap 95 % interval.

    low, high: None where too few draws define it. blocks: of time that hold a spike, of all folds that count.
    """

    point: float
    low: float | None
    high: float | None
    blocks: int

    @property
    def shown(self) -> bool:
        """Ahead by more than chance."""
        return self.low is not None and self.low > 0 and self.blocks >= LEAST_BLOCKS

    @property
    def lost(self) -> bool:
        """Behind by more than chance."""
        return self.high is not None and self.high < 0 and self.blocks >= LEAST_BLOCKS

    def __str__(self) -> str:
        known = self.low is not None and self.high is not None
        interval_text = f"paired 95 % interval {self.low:+.4f} to {self.high:+.4f}" if known else "no interval is known"
        few = f" ({LEAST_BLOCKS} are needed to show anything)" if self.blocks < LEAST_BLOCKS else ""
        return f"{self.point:+.4f}, {interval_text}, spikes in {self.blocks} blocks of time{few}"

    def metrics(self) -> dict[str, float]:
        """As a manifest keeps it among the means over the folds."""
        values = {"": self.point, "_low": self.low, "_high": self.high, "_blocks": float(self.blocks)}
        return {f"{_METRIC}{end}": value for end, value in values.items() if value is not None}


_METRIC = "pr_auc_minus_har"


def recorded(means: Mapping[str, float]) -> Lead | None:
    """What a manifest keeps of a kind's lead on HAR; None where none was taken."""
    if _METRIC not in means:
        return None
    low, high, blocks = (means.get(f"{_METRIC}_{end}") for end in ("low", "high", "blocks"))
    return Lead(means[_METRIC], low, high, int(blocks or 0))


def lead(folds: Sequence[Scored], kind: str, rival: str, block_s: float, seed: int) -> Lead:
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
    return Lead(float(np.mean(points)), low, high, with_spikes)


def what_ships(
    folds: Sequence[Scored], servable: Sequence[str], asked: str | None, block_s: float, seed: int
) -> tuple[str, dict[str, Lead]]:
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
    shown = [kind for kind, one in leads.items() if one.shown]
    return asked or max(shown, key=lambda kind: means[kind], default=har), leads


def why_it_ships(kind: str, walk_forward: Mapping[str, Mapping[str, float]]) -> str:
    """Of a manifest's means over the folds: what leads on HAR decided. "" where none was taken."""
    leads = {name: one for name, means in walk_forward.items() if (one := recorded(means)) is not None}
    if not leads:
        return ""
    told = kind if kind in leads else max(leads, key=lambda name: leads[name].point)
    found = f"{model_name(told)}'s lead on HAR logit, in mean PR-AUC over the folds: {leads[told]}"
    if told != kind:
        return f"{found}. That may be chance, so {model_name(kind)} ships"
    if leads[told].shown:
        return f"{found}. That is more than chance, so it ships"
    return f"{found}. It is not shown to be better than HAR logit, and was asked for by name"


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
