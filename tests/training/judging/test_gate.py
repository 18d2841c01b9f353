"""The gate refuses what must not be served, each with its reason, and lets an honest model pass."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from common.bundle import ManifestFeature, ManifestSchema
from common.check import Check
from common.schema import CORE_1, FULL_1, Feature, FeatureSchema
from tests.training.runs import Made, leaky, make
from training.judging.evaluation.blocks import Blocks
from training.judging.gate import Candidate, Champion, Limits, judge, refusals
from training.judging.scored_part import Scored
from training.shipping.promotion import rows_of

LIMITS = Limits()
INPUTS_OF_HAR = ("return_1s", "return_5s", "volatility")


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


def candidate(made: Made, **other: Any) -> Candidate:
    said = made.fitted.probabilities(made.rows.features)
    final = rows_of(made.rows, made.parts[-1])
    whole: dict[str, Any] = {
        "manifest": made.manifest,
        "parts": made.parts,
        "exported": said,
        "trained": said,
        "final_exported": said[final],
        "latency_us": 5.0,
    }
    return Candidate(**(whole | other))


def champion(made: Made, probabilities: Any, **other: Any) -> Champion:
    whole: dict[str, Any] = {
        "version": "7",
        "schema": CORE_1,
        "trained_until_ns": made.manifest.training.end_ns,
        "probabilities": probabilities,
        "proven": True,
    }
    return Champion(**(whole | other))


def verdict(given: Candidate, name: str, limits: Limits = LIMITS) -> Check:
    return next(check for check in judge(given, limits) if check.name == name)


def reasons(given: Candidate, limits: Limits = LIMITS) -> list[str]:
    return refusals(judge(given, limits))


def test_an_honest_model_passes_every_check(made: Made) -> None:
    assert reasons(candidate(made)) == []


def test_a_score_too_good_to_be_true_is_a_leak(made: Made) -> None:
    (reason,) = reasons(candidate(leaky(made)))
    assert reason.startswith("leak: logistic scores a PR-AUC of 1.000")
    assert "a feature knows the future" in reason


def test_a_high_score_where_most_rows_are_spikes_is_none(made: Made) -> None:
    final = made.parts[-1]
    y = np.ones_like(final.y)
    y[::50] = 0
    volatility = np.where(y == 1, 2 * final.threshold, final.threshold / 2)
    said = np.where(y == 1, 0.9, 0.1)
    often = replace(final, y=y, future_volatility=volatility, probabilities={**final.probabilities, "logistic": said})
    assert verdict(candidate(made, parts=[*made.parts[:-1], often], final_exported=said), "leak").passed


def test_an_export_that_differs_on_one_row_is_refused_and_the_row_named(made: Made) -> None:
    said = made.fitted.probabilities(made.rows.features)
    bad = said.copy()
    bad[1234] += 2e-5
    (reason,) = reasons(candidate(made, exported=bad))
    assert reason == (
        "parity: the ONNX form differs from the trained form on 1 of 12,000 rows, by 2e-05 on row 1234; at most 1e-05 "
        "is allowed"
    )


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_export_that_gives_no_number_is_refused(made: Made, wrong: float) -> None:
    bad = made.fitted.probabilities(made.rows.features)
    bad[7] = wrong
    assert not verdict(candidate(made, exported=bad), "parity").passed


def test_an_export_that_leaves_rows_out_is_refused(made: Made) -> None:
    said = made.fitted.probabilities(made.rows.features)
    assert "11,999 probabilities for 12,000" in verdict(candidate(made, exported=said[:-1]), "parity").text


def test_a_model_that_ties_a_baseline_does_not_beat_it(made: Made) -> None:
    parts = [
        replace(part, probabilities={**part.probabilities, "har": part.probabilities["logistic"]})
        for part in made.parts
    ]
    check = verdict(candidate(made, parts=parts), "baselines")
    assert not check.passed
    assert check.text.startswith("does not beat har: mean PR-AUC over 3 of 3 purged folds")


def as_kind(made: Made, kind: str, parts: list[Scored]) -> Candidate:
    manifest = msgspec.structs.replace(
        made.manifest, kind=kind, metrics={kind: made.manifest.metrics["logistic"]}, inputs=INPUTS_OF_HAR
    )
    return candidate(made, parts=parts, manifest=manifest)


def saying(made: Made, **said: str) -> list[Scored]:
    """The parts, in which one kind says what another does."""
    return [
        replace(
            part,
            probabilities={**part.probabilities, **{name: part.probabilities[other] for name, other in said.items()}},
            decision_thresholds={
                **part.decision_thresholds,
                **{name: part.decision_thresholds[other] for name, other in said.items()},
            },
        )
        for part in made.parts
    ]


def shuffled(made: Made, kind: str) -> list[Scored]:
    random = np.random.default_rng(5)
    return [
        replace(part, probabilities={**part.probabilities, kind: random.permutation(part.probabilities[kind])})
        for part in made.parts
    ]


def test_a_baseline_may_ship_where_it_beats_the_others(made: Made) -> None:
    assert reasons(as_kind(made, "har_returns", saying(made, har_returns="logistic"))) == []


def test_a_lead_on_har_that_may_be_chance_is_not_enough(made: Made) -> None:
    random = np.random.default_rng(3)
    parts = []
    for part in saying(made, har="logistic"):
        moved = part.probabilities["har"] + random.normal(0, 0.02, len(part))
        parts.append(replace(part, probabilities={**part.probabilities, "har": np.clip(moved, 0, 1)}))
    check = verdict(candidate(made, parts=parts), "baselines")
    assert not check.passed
    assert check.text.startswith("not shown to beat har, so HAR ships: mean PR-AUC over 3 of 3 purged folds")
    assert "on har +0.0" in check.text


def test_har_ships_unless_it_is_shown_to_be_behind_a_baseline(made: Made) -> None:
    kind = "har_returns"
    equal = saying(made, har="logistic", har_returns="logistic", ewma="logistic")
    assert verdict(as_kind(made, kind, equal), "baselines").passed
    check = verdict(as_kind(made, kind, shuffled(replace(made, parts=equal), kind)), "baselines")
    assert not check.passed
    assert re.match("behind .*ewma.* by more than chance: mean PR-AUC", check.text)


def test_har_is_what_looks_at_its_windows_whatever_it_is_called(made: Made) -> None:
    given = as_kind(made, "har_returns", saying(made, har_returns="logistic"))
    manifest = msgspec.structs.replace(given.manifest, inputs=("volatility", "trade_intensity", "return_60s"))
    check = verdict(replace(given, manifest=manifest), "baselines")
    assert not check.passed
    assert check.text == "volatility, trade_intensity, return_60s are no inputs of har_returns"
    assert not verdict(as_kind(made, "har", saying(made, har="logistic")), "baselines").passed  # core/1 has no windows


@pytest.mark.parametrize(
    ("kind", "proven", "passes"),
    [
        ("har_returns", False, True),
        ("har_returns", True, False),
        ("logistic", False, False),
    ],
)
def test_only_har_and_only_an_unproven_champion_make_way_for_each_other_without_proof(
    made: Made, kind: str, proven: bool, passes: bool
) -> None:
    random = np.random.default_rng(1)
    said = made.fitted.probabilities(made.rows.features)[rows_of(made.rows, made.parts[-1])]
    theirs = np.clip(said + random.normal(0, 0.03, len(said)), 0, 1)
    ours = np.clip(said + random.normal(0, 0.03, len(said)), 0, 1)
    given = as_kind(made, kind, saying(made, har_returns="logistic"))
    check = verdict(
        replace(given, final_exported=ours, champion=champion(made, theirs, proven=proven)),
        "champion",
        Limits(champion_margin=0.0),
    )
    assert check.passed == passes, check.text


def test_probabilities_that_are_no_numbers_pass_nothing(made: Made) -> None:
    said = made.fitted.probabilities(made.rows.features)[rows_of(made.rows, made.parts[-1])]
    broken = said.copy()
    broken[3] = np.nan
    given = candidate(made, final_exported=broken, champion=champion(made, said))
    for name in ("probabilities", "champion"):
        check = verdict(given, name)
        assert not check.passed
        assert "no number for some rows" in check.text


def test_probabilities_that_are_worse_than_a_constant_are_refused(made: Made) -> None:
    said = made.fitted.probabilities(made.rows.features)
    final = rows_of(made.rows, made.parts[-1])
    loud = 1 - (1 - said[final]) ** 8  # the same ranks, far too high
    check = verdict(candidate(made, final_exported=loud), "probabilities")
    assert not check.passed
    assert check.text.startswith("worse than a constant: Brier skill -")
    assert verdict(candidate(made), "probabilities").passed


def test_a_walk_forward_without_a_baseline_is_no_evidence(made: Made) -> None:
    def without_ewma(values: Any) -> dict[str, Any]:
        return {kind: value for kind, value in values.items() if kind != "ewma"}

    parts = [
        replace(
            part,
            probabilities=without_ewma(part.probabilities),
            decision_thresholds=without_ewma(part.decision_thresholds),
        )
        for part in made.parts
    ]
    assert verdict(candidate(made, parts=parts), "baselines").text == "the run kept no walk-forward of ewma"


def test_one_fold_with_spikes_is_no_walk_forward(made: Made) -> None:
    still = [
        replace(part, y=np.zeros_like(part.y), future_volatility=np.zeros_like(part.future_volatility))
        for part in made.parts[:2]
    ]
    check = verdict(candidate(made, parts=[*still, *made.parts[2:]]), "baselines")
    assert not check.passed
    assert check.text.startswith("1 of 3 walk-forward folds hold 10 spikes")


def test_a_model_worse_than_the_champion_is_refused_with_the_interval(made: Made) -> None:
    final = made.parts[-1]
    better = 0.7 * final.y + 0.3 * np.random.default_rng(0).random(len(final.y))
    (reason,) = reasons(candidate(made, champion=champion(made, better)))
    assert reason.startswith("champion: worse: PR-AUC -0.")
    assert "paired 95 % interval" in reason


def test_a_model_is_no_worse_than_itself(made: Made) -> None:
    said = made.fitted.probabilities(made.rows.features)[rows_of(made.rows, made.parts[-1])]
    check = verdict(candidate(made, champion=champion(made, said)), "champion")
    assert check.passed
    assert "+0.0000 against champion 7, paired 95 % interval +0.0000 to +0.0000" in check.text


def test_every_interval_of_the_gate_has_the_same_number_of_draws(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: set[int] = set()
    draws = Blocks.draws

    def counted(self: Blocks, resamples: int, seed: int | list[int]) -> Any:
        drawn.add(resamples)
        return draws(self, resamples, seed)

    monkeypatch.setattr(Blocks, "draws", counted)
    judge(candidate(made, champion=champion(made, made.parts[-1].probabilities[made.manifest.kind])), LIMITS)
    assert drawn == {2000}


def test_what_could_well_be_worse_is_refused_and_a_wider_margin_lets_it_pass(made: Made) -> None:
    said = made.fitted.probabilities(made.rows.features)[rows_of(made.rows, made.parts[-1])]
    noisy = said + np.random.default_rng(1).normal(0, 0.02, len(said))
    given = candidate(made, champion=champion(made, noisy))
    assert "not shown to be no worse" in verdict(given, "champion", Limits(champion_margin=0.0)).text
    assert verdict(given, "champion", Limits(champion_margin=0.3)).passed


def test_rows_that_the_champion_trained_on_are_left_out_where_enough_are_left(made: Made) -> None:
    final = made.parts[-1]
    middle = int(final.time_ns[len(final) // 2])
    said = np.full(len(final), 0.5)
    check = verdict(candidate(made, champion=champion(made, said, trained_until_ns=middle)), "champion")
    assert f"on {len(final) - len(final) // 2 - 61:,} rows" in check.text
    check = verdict(candidate(made, champion=champion(made, said, trained_until_ns=int(final.time_ns[-1]))), "champion")
    assert f"on {len(final):,} rows, which the champion has trained on in part" in check.text


def test_a_champion_of_other_features_cannot_be_replaced_under_its_name(made: Made) -> None:
    given = candidate(made, champion=champion(made, None, schema=FULL_1))
    assert "takes core/1, champion 7 takes full/1" in verdict(given, "schema").text
    assert not verdict(given, "champion").passed


def test_a_schema_that_no_server_knows_is_refused(made: Made) -> None:
    research = FeatureSchema("quotes/1", (*CORE_1.features[:-1], Feature("quote_age", "s", "")))
    told = tuple(ManifestFeature(one.name, one.unit) for one in research.features)
    manifest = msgspec.structs.replace(made.manifest, schema=ManifestSchema("quotes/1", research.hash, told))
    (reason,) = reasons(candidate(made, manifest=manifest))
    assert reason.startswith(f"schema: quotes/1 {research.hash} is known to no server")


def test_a_claim_that_the_model_does_not_keep_is_refused(made: Made) -> None:
    manifest = msgspec.structs.replace(made.manifest, metrics={"logistic": {"pr_auc": 0.6}})
    (reason,) = reasons(candidate(made, manifest=manifest))
    assert reason.startswith("reported: the manifest claims a PR-AUC of 0.6 on the final part, model.onnx scores 0.")


def test_training_rows_whose_labels_reach_the_final_part_are_refused(made: Made) -> None:
    span = msgspec.structs.replace(made.manifest.training, end_ns=int(made.parts[-1].time_ns[0]) - 90 * 10**9)
    manifest = msgspec.structs.replace(made.manifest, training=span)
    (reason,) = reasons(candidate(made, manifest=manifest))
    assert reason.startswith("purged: the last training row is 90.0 s before the final part")


def test_parts_that_overlap_in_time_are_refused(made: Made) -> None:
    check = verdict(candidate(made, parts=[made.parts[0], made.parts[0], *made.parts[1:]]), "purged")
    assert check.text == "fold 1 and fold 1 overlap in time"


def test_a_model_over_its_budget_is_refused(made: Made) -> None:
    (reason,) = reasons(candidate(made, latency_us=10.4))
    assert reason == "latency: one row takes 10.4 µs in ONNX Runtime, the budget is 10 µs"


def test_every_reason_is_told_not_only_the_first(made: Made) -> None:
    bad = made.fitted.probabilities(made.rows.features) + 0.1
    found = reasons(candidate(leaky(made), exported=bad, latency_us=99.0))
    assert [reason.split(":")[0] for reason in found] == ["parity", "leak", "latency"]
