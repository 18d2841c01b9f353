"""What a manifest records about a model's lead on HAR, and the names of the kinds of model, in words.

Readers of bundles need both without the libraries that compute leads (training/lead.py).
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
# With fewer independent pieces of evidence a bootstrap says "more than chance" too often: from four blocks in one case
# of ten (Cameron, Gelbach and Miller 2008, "Bootstrap-based improvements for inference with clustered errors").
LEAST_BLOCKS = 20


def model_name(kind: str) -> str:
    return NAMES.get(kind, kind)


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
