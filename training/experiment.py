"""One training run, from rows to a model with its honest numbers. No file, no clock.

The last fifth of the rows is set apart first and looked at once, at the end. Everything that is
chosen (penalty, decision threshold) is chosen on walk-forward folds of what comes before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from common.errors import InputError
from training import leakage, metrics, models
from training.labels import labels, spike_threshold
from training.models import Fitted, Kind
from training.rows import Rows
from training.splits import Split, SplitRules, final_split, walk_forward
from training.ticks import NS_PER_S

Progress = Callable[[str], None]
MINIMUM_ROWS = 100  # of a training part; τ at a 0.90 quantile then rests on ten positives


@dataclass(frozen=True, slots=True)
class Settings:
    model_type: str = "logistic"
    horizon_s: int = 60
    window_s: int = 60  # the longest of the schema
    sample_period_s: int = 1
    quantile: float = 0.90
    final_share: float = 0.20
    folds: int = 8
    # τ is the quantile over the training part's last hour of seconds: the level of volatility drifts, and
    # against all of the recordings' days a quiet morning holds no spike at all. 0: the whole training part.
    threshold_rows: int = 3600
    seed: int = 0  # of the bootstrap, the only thing drawn

    def split_rules(self) -> SplitRules:
        return SplitRules(
            horizon_ns=self.horizon_s * NS_PER_S,
            window_ns=self.window_s * NS_PER_S,
            final_share=self.final_share,
            folds=self.folds,
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A training part and its test part, labelled with the training part's own τ."""

    split: Split
    threshold: float
    climatology: float  # rate of spikes in the training rows that τ was taken from
    train: Rows
    train_y: NDArray[np.int8]
    test: Rows
    test_y: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model or baseline: what the folds chose, what the final part says of it."""

    fitted: Fitted
    strength: float
    decision_threshold: float
    fold_metrics: tuple[dict[str, float], ...]
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Experiment:
    settings: Settings
    final: Part
    folds: tuple[Part, ...]
    candidates: dict[str, Candidate]  # the model first, then the baselines

    @property
    def model(self) -> Candidate:
        return self.candidates[self.settings.model_type]


def run(rows: Rows, settings: Settings, progress: Progress = lambda step: None) -> Experiment:
    """Raises InputError where the data cannot carry the run, TrainingError where a score betrays a leak."""
    rules = settings.split_rules()
    _require_rows(rows, settings)
    final = _part("the final part", rows, final_split(rows.time_ns, rules), settings)
    if final.test_y.min() == final.test_y.max():
        raise _single_class("the final part tests", final.test_y, final.threshold)
    folds = _folds(rows, final, settings)
    kinds = {settings.model_type: models.MODELS[settings.model_type], **models.BASELINES}
    candidates = {}
    for name, kind in kinds.items():
        progress(f"{name}: {len(folds)} folds × {len(kind.strengths)} penalties")
        candidates[name] = _train(name, kind, folds, final)
    progress("intervals by block bootstrap")
    _add_intervals(candidates, final, settings)
    return Experiment(settings, final, folds, candidates)


def _folds(rows: Rows, final: Part, settings: Settings) -> tuple[Part, ...]:
    """Walk-forward folds over all that comes before the final part and its embargo."""
    development = rows.take(np.arange(final.split.train[-1] + 1))
    splits = walk_forward(development.time_ns, settings.split_rules())
    folds = tuple(_part(f"fold {number}", development, split, settings) for number, split in enumerate(splits, 1))
    # A quiet fold may hold no spike; the decision threshold needs some somewhere.
    y = np.concatenate([fold.test_y for fold in folds])
    if y.min() == y.max():
        raise _single_class("the folds test", y, max(fold.threshold for fold in folds))
    return folds


def _require_rows(rows: Rows, settings: Settings) -> None:
    needed = MINIMUM_ROWS * (settings.folds + 1)
    if len(rows) < needed:
        raise InputError(
            f"too little data: {len(rows)} usable rows, at least {needed} are needed (a row needs "
            f"{settings.window_s} s of unbroken ticks before it and {settings.horizon_s} s after it)"
        )


def _part(name: str, rows: Rows, split: Split, settings: Settings) -> Part:
    leakage.check_split(rows.time_ns, split, settings.split_rules())
    train, test = rows.take(split.train), rows.take(split.test)
    if len(train) < MINIMUM_ROWS or len(test) == 0:
        raise InputError(f"too little data: {name} has {len(train)} rows to train on and {len(test)} to test on")
    recent = slice(-settings.threshold_rows, None)
    threshold = spike_threshold(train.future_volatility[recent], settings.quantile)
    train_y, test_y = labels(train.future_volatility, threshold), labels(test.future_volatility, threshold)
    if train_y.min() == train_y.max():
        raise _single_class(f"{name} trains", train_y, threshold)
    return Part(split, threshold, float(np.mean(train_y[recent])), train, train_y, test, test_y)


def _single_class(where: str, y: NDArray[np.int8], threshold: float) -> InputError:
    return InputError(
        f"single-class labels: {where} on {len(y)} rows that are all {'' if y[0] else 'no '}spikes (future volatility "
        f"at least {threshold:.3g}); longer or livelier data is needed"
    )


def _train(name: str, kind: Kind, folds: tuple[Part, ...], final: Part) -> Candidate:
    strength, validation = _choose_strength(kind, folds)
    decision = metrics.best_f1_threshold(np.concatenate([fold.test_y for fold in folds]), np.concatenate(validation))
    fold_metrics = tuple(
        metrics.evaluate(fold.test_y, probability, decision, fold.climatology)
        for fold, probability in zip(folds, validation, strict=True)
    )
    fitted = models.fit(kind, strength, final.train, final.train_y)
    scores = metrics.evaluate(final.test_y, fitted.probabilities(final.test), decision, final.climatology)
    leakage.check_score(name, scores["pr_auc"])
    return Candidate(fitted, strength, decision, fold_metrics, scores)


def _choose_strength(kind: Kind, folds: tuple[Part, ...]) -> tuple[float, list[NDArray[np.float64]]]:
    """The penalty with the lowest log loss over all folds' test rows, and its probabilities there."""
    y = np.concatenate([fold.test_y for fold in folds])
    tried = {}
    for strength in kind.strengths:
        tried[strength] = [
            models.fit(kind, strength, fold.train, fold.train_y).probabilities(fold.test) for fold in folds
        ]
    best = min(tried, key=lambda strength: float(log_loss(y, np.concatenate(tried[strength]))))
    return best, tried[best]


def _add_intervals(candidates: dict[str, Candidate], final: Part, settings: Settings) -> None:
    probabilities = np.stack([candidate.fitted.probabilities(final.test) for candidate in candidates.values()])
    samples = metrics.bootstrap_pr_auc(final.test_y, probabilities, final.test.time_ns, settings.seed)
    names = list(candidates)
    for column, name in enumerate(names):
        scores = candidates[name].metrics
        scores["pr_auc_low"], scores["pr_auc_high"] = metrics.interval(samples[:, column])
    scores = candidates[settings.model_type].metrics
    for column, name in enumerate(names[1:], start=1):
        scores[f"pr_auc_minus_{name}"] = scores["pr_auc"] - candidates[name].metrics["pr_auc"]
        low, high = metrics.interval(samples[:, 0] - samples[:, column])
        scores[f"pr_auc_minus_{name}_low"], scores[f"pr_auc_minus_{name}_high"] = low, high
