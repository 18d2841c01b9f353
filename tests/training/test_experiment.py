from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.errors import InputError, TrainingError
from training import experiment, export
from training.dataset import Dataset
from training.experiment import Experiment, Settings
from training.labels import spike_threshold


def test_clustered_volatility_is_predicted_better_than_by_chance(trained: Experiment) -> None:
    scores = trained.model.metrics
    assert scores["pr_auc_lift"] > 1.5
    assert scores["roc_auc"] > 0.6


def test_shuffled_labels_score_the_base_rate(dataset: Dataset, settings: Settings) -> None:
    lifts, ranks = [], []
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(dataset.rows.future_volatility)
        result = experiment.run(replace(dataset.rows, future_volatility=shuffled), settings)
        for candidate in result.candidates.values():
            lifts.append(candidate.metrics["pr_auc_lift"])
            ranks.append(candidate.metrics["roc_auc"])
    assert np.mean(lifts) == pytest.approx(1.0, abs=0.2)
    assert np.mean(ranks) == pytest.approx(0.5, abs=0.04)


def test_a_feature_that_is_the_future_is_refused(dataset: Dataset, settings: Settings) -> None:
    features = dataset.rows.features.copy()
    features[:, 6] = dataset.rows.future_volatility
    with pytest.raises(TrainingError, match="leak: logistic scores a PR-AUC of"):
        experiment.run(replace(dataset.rows, features=features), settings)


def test_the_final_part_changes_nothing_but_its_own_scores(
    dataset: Dataset, settings: Settings, trained: Experiment
) -> None:
    future = dataset.rows.future_volatility.copy()
    final = trained.final.split.test
    future[final] = np.random.default_rng(0).permutation(future[final]) * 3
    features = dataset.rows.features.copy()
    features[final] *= 7
    other = experiment.run(replace(dataset.rows, future_volatility=future, features=features), settings)
    assert other.final.threshold == trained.final.threshold
    assert other.model.strength == trained.model.strength
    assert other.model.decision_threshold == trained.model.decision_threshold
    assert export.to_onnx(other.model.fitted) == export.to_onnx(trained.model.fitted)
    assert other.model.metrics != trained.model.metrics


def test_each_part_takes_its_threshold_from_its_own_training_rows(trained: Experiment) -> None:
    parts = [trained.final, *trained.folds]
    for part in parts:
        recent = part.train.future_volatility[-trained.settings.threshold_rows :]
        assert part.threshold == spike_threshold(recent, 0.90)
        assert part.climatology == pytest.approx(0.10, abs=0.01)
    assert len({part.threshold for part in parts}) == len(parts)


def test_the_threshold_follows_the_most_recent_rows(dataset: Dataset, settings: Settings) -> None:
    future = dataset.rows.future_volatility.copy()
    future[: len(future) // 2] *= 10  # a livelier morning
    rows = replace(dataset.rows, future_volatility=future)
    all_day = experiment.run(rows, replace(settings, threshold_rows=600)).final
    assert all_day.threshold == spike_threshold(all_day.train.future_volatility[-600:], 0.90)
    assert all_day.train_y.mean() > 0.4
    with pytest.raises(InputError, match=r"single-class labels: the final part tests on .* all no spikes"):
        experiment.run(rows, replace(settings, threshold_rows=0))


def test_too_few_rows_are_refused(dataset: Dataset, settings: Settings) -> None:
    few = dataset.rows.take(np.arange(499))
    with pytest.raises(InputError, match="too little data: 499 usable rows, at least 500 are needed"):
        experiment.run(few, settings)


def test_a_market_that_stands_still_is_refused(dataset: Dataset, settings: Settings) -> None:
    still = replace(dataset.rows, future_volatility=np.zeros(len(dataset.rows)))
    with pytest.raises(InputError, match=r"single-class labels: the final part trains on .* all spikes"):
        experiment.run(still, settings)
