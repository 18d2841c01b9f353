"""The reason why a model of a single spike size ships, from its manifest."""

from __future__ import annotations

import pytest

from common.paired_difference import MIN_SPIKE_BLOCKS, PairedDifference, recorded, why_it_ships


@pytest.mark.parametrize(
    ("low", "blocks", "better"),
    [(0.01, MIN_SPIKE_BLOCKS, True), (0.01, MIN_SPIKE_BLOCKS - 1, False), (0.0, MIN_SPIKE_BLOCKS, False)],
)
def test_a_lead_counts_if_its_interval_is_above_zero_and_over_enough_blocks(
    low: float, blocks: int, better: bool
) -> None:
    assert PairedDifference(0.05, low, 0.1, blocks).significantly_better == better


def test_a_lead_without_an_interval_does_not_count() -> None:
    lead = PairedDifference(0.05, None, None, 30)
    assert not lead.significantly_better
    assert str(lead) == "+0.0500, no interval is known, spikes in 30 blocks of time"


@pytest.mark.parametrize(
    ("kind", "lead", "conclusion"),
    [
        ("har_returns", PairedDifference(0.068, -0.006, 0.129, 30), "That may be chance, so HAR of returns ships"),
        ("har_returns", PairedDifference(0.068, 0.006, 0.129, 9), "That may be chance, so HAR of returns ships"),
        (
            "logistic",
            PairedDifference(0.068, -0.006, 0.129, 30),
            "It is not shown to be better than HAR logit, and was asked for",
        ),
        ("logistic", PairedDifference(0.068, 0.01, 0.129, 30), "That is more than chance, so it ships"),
        ("har", PairedDifference(0.068, None, None, 2), "That may be chance, so HAR logit ships"),
    ],
)
def test_a_manifest_explains_what_the_lead_on_har_decided(kind: str, lead: PairedDifference, conclusion: str) -> None:
    ends = {"": lead.point, "_low": lead.low, "_high": lead.high, "_blocks": float(lead.blocks)}
    means = {f"pr_auc_minus_har{end}": value for end, value in ends.items() if value is not None}
    assert recorded(means) == lead
    text = why_it_ships(kind, {"har": {"pr_auc": 0.1}, "logistic": {"pr_auc": 0.168, **means}})
    assert text.startswith(f"logistic's lead on HAR logit, in mean PR-AUC over the folds: {lead}. {conclusion}")


def test_a_manifest_without_a_lead_explains_nothing() -> None:
    assert why_it_ships("har", {"har": {"pr_auc": 0.1}}) == ""
