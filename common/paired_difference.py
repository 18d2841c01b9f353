"""The paired difference of a model and HAR in the manifests of models of a single spike size, and names of their kinds.

Such models are still served. `volcast train` makes forecasts, whose manifests record no such difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NAMES = {
    "zscore": "z-score",
    "ewma": "EWMA",
    "har": "HAR logit",
    "har_returns": "HAR of returns",
    "har_logit": "HAR logit",
    "logistic": "logistic",
    "xgboost": "XGBoost",
    "given": "given",
}
# With fewer independent blocks, a bootstrap finds significant differences too often: for equal models and four blocks
# in one case of ten (Cameron, Gelbach and Miller 2008, "Bootstrap-based improvements for inference with clustered
# errors").
MIN_SPIKE_BLOCKS = 20


def model_name(kind: str) -> str:
    return NAMES.get(kind, kind)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Difference in mean PR-AUC over the folds, and its paired block-bootstrap 95 % interval.

    low, high: None if too few draws define the interval.
    blocks: number of time blocks with a spike, over all usable folds.
    """

    point: float
    low: float | None
    high: float | None
    blocks: int

    @property
    def significantly_better(self) -> bool:
        """Whether the interval lies above zero, with enough blocks."""
        return self.low is not None and self.low > 0 and self.blocks >= MIN_SPIKE_BLOCKS

    def __str__(self) -> str:
        known = self.low is not None and self.high is not None
        interval_text = f"paired 95 % interval {self.low:+.4f} to {self.high:+.4f}" if known else "no interval is known"
        few = f" ({MIN_SPIKE_BLOCKS} are needed to show anything)" if self.blocks < MIN_SPIKE_BLOCKS else ""
        return f"{self.point:+.4f}, {interval_text}, spikes in {self.blocks} blocks of time{few}"


_METRIC = "pr_auc_minus_har"


def recorded(means: Mapping[str, float]) -> PairedDifference | None:
    """The difference between a kind and HAR that a manifest records; None if it records none."""
    if _METRIC not in means:
        return None
    low, high, blocks = (means.get(f"{_METRIC}_{end}") for end in ("low", "high", "blocks"))
    return PairedDifference(means[_METRIC], low, high, int(blocks or 0))


def why_it_ships(kind: str, walk_forward: Mapping[str, Mapping[str, float]]) -> str:
    """The reason why a kind ships, from a manifest's means over the folds; "" if they hold no difference to HAR."""
    differences = {name: lead for name, means in walk_forward.items() if (lead := recorded(means)) is not None}
    if not differences:
        return ""
    compared = kind if kind in differences else max(differences, key=lambda name: differences[name].point)
    difference = differences[compared]
    text = f"{model_name(compared)}'s lead on HAR logit, in mean PR-AUC over the folds: {difference}"
    if compared != kind:
        return f"{text}. That may be chance, so {model_name(kind)} ships"
    if difference.significantly_better:
        return f"{text}. That is more than chance, so it ships"
    return f"{text}. It is not shown to be better than HAR logit, and was asked for by name"
