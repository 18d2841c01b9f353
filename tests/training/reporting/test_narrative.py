from __future__ import annotations

from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from common.bundle import read_bundle
from tests.training.judging.evaluation.made_up import scored, with_spikes
from training.commands.evaluate import _print
from training.judging.evaluation import Settings, evaluate_scored
from training.judging.evaluation.result import Difference, Figure
from training.reporting.narrative import (
    findings,
    first,
    interval_text,
    number,
    standing,
)
from training.reporting.training_summary import verdict

SHIPPED = Path(__file__).parents[3] / "models" / "volatility" / "1"
FEW = Settings(resamples=40, group_resamples=20)


def test_the_bad_is_said_with_the_good() -> None:
    parts = [scored("fold 1", rows=1500, seed=1), scored("final", rows=1500, seed=2, start_s=5000)]
    lines = " | ".join(findings(evaluate_scored(parts, "har", FEW)))
    assert "HAR logit IS BEATEN by logistic" in lines
    assert "On the final part the better ROC-AUC is that of logistic" in lines


@pytest.mark.parametrize(
    ("value", "low", "high", "better", "said"),
    [
        (0.0115, -0.121, 0.084, None, "A is ahead of B by 0.0115 PR-AUC, 95 % -0.121 to +0.084: may be chance"),
        (0.02, 0.01, 0.03, True, "A is ahead of B by 0.0200 PR-AUC, 95 % +0.010 to +0.030: more than chance"),
        (-0.0131, -0.029, 0.01, None, "A is behind B by 0.0131 PR-AUC, 95 % -0.029 to +0.010: may be chance"),
        (-0.02, -0.03, -0.01, False, "A IS BEATEN by B by 0.0200 PR-AUC, 95 % -0.030 to -0.010: more than chance"),
        (-0.02, None, None, None, "A is behind B by 0.0200 PR-AUC, 95 % not known: may be chance"),
        (0.0, -0.01, 0.01, None, "A says as much as B by PR-AUC, 95 % -0.010 to +0.010"),
    ],
)
def test_only_who_is_behind_by_more_than_chance_is_beaten(
    value: float, low: float | None, high: float | None, better: bool | None, said: str
) -> None:
    assert standing(Difference("a", "b", "pr_auc", value, low, high, better), "A", "B") == said


@pytest.mark.parametrize("spikes", [4, 700])
def test_of_a_part_with_too_few_of_a_class_no_rank_is_praised_or_blamed(spikes: int) -> None:
    parts = [scored("fold 1", rows=1500, seed=1), with_spikes(spikes, start_s=5000)]
    lines = findings(evaluate_scored(parts, "zscore", FEW))
    of_folds = [one for one in lines if one.startswith("On the folds' mean")]
    assert any("is ahead of HAR logit" in one for one in of_folds)
    others = [one for one in lines if one not in of_folds]
    assert [one for one in others if "PR-AUC" in one or "ROC-AUC" in one or "better F1" in one] == []
    assert any("better Brier" in one for one in others)


def test_the_terminal_begins_with_what_cannot_be_concluded_and_says_it_once() -> None:
    evaluation = evaluate_scored([with_spikes(700)], "logistic", FEW)
    text = StringIO()
    _print(Console(file=text, width=400), evaluation)
    lines = [one.strip() for one in text.getvalue().splitlines()]
    assert lines[0] == f"{first(evaluation)}."
    assert sum("Nothing about ranking" in one for one in lines) == 1
    assert [one for one in lines if one.startswith(("PR-AUC", "lift over", "ROC-AUC", "logistic says"))] == []
    assert any(one.startswith("Brier") for one in lines)


def test_a_training_speaks_of_differences_as_an_evaluation_does() -> None:
    manifest = msgspec.structs.replace(
        read_bundle(SHIPPED)[0],
        kind="logistic",
        metrics={
            "logistic": {"pr_auc": 0.2, "pr_auc_minus_har_low": -0.2, "pr_auc_minus_har_high": 0.1},
            "har": {"pr_auc": 0.25},
        },
    )
    assert verdict(manifest) == [
        "logistic is behind har by 0.0500 PR-AUC, 95 % -0.200 to +0.100: may be chance",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.12346, "0.1235"), (1.5, "1.50"), (12345.6, "12,346"), (2e-5, "2e-05")]
)
def test_numbers_have_the_digits_that_matter(value: float, text: str) -> None:
    assert number(value) == text


def test_an_interval_that_is_not_known_is_not_made_up() -> None:
    assert interval_text(Figure(0.5, None, None)) == "not known"
    assert interval_text(Figure(0.5, -0.1, 0.25), signed=True) == "-0.100 to +0.250"
