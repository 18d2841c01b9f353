from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from distributed import LocalCluster

from common import cluster
from common.errors import InputError, TrainingError
from common.schema import CORE_1
from training.fitting import experiment
from training.fitting.experiment import Experiment, Settings, _ends, on_schema
from training.fitting.pool import open_pool
from training.fitting.search import Budget
from training.judging.metrics import mean_of_folds
from training.models import KINDS, LEARNERS
from training.problem.data import Dataset
from training.problem.labels import spike_threshold

pytestmark = pytest.mark.slow


def test_clustered_volatility_is_predicted_better_than_by_chance(trained: Experiment) -> None:
    scores = trained.model.metrics
    assert scores["pr_auc_lift"] > 1.5
    assert scores["roc_auc"] > 0.6


def test_an_interval_that_most_draws_do_not_define_is_left_out() -> None:
    samples = np.full(100, 0.5)
    assert set(_ends("pr_auc", samples)) == {"pr_auc_low", "pr_auc_high"}
    samples[:21] = np.nan
    assert _ends("pr_auc", samples) == {}


def test_shuffled_labels_score_the_base_rate(dataset: Dataset, settings: Settings) -> None:
    lifts, ranks = [], []
    for seed in range(2):
        shuffled = np.random.default_rng(seed).permutation(dataset.rows.future_volatility)
        result = experiment.run(replace(dataset.rows, future_volatility=shuffled), settings)
        for candidate in result.candidates.values():
            lifts.append(candidate.metrics["pr_auc_lift"])
            ranks.append(candidate.metrics["roc_auc"])
    assert np.mean(lifts) == pytest.approx(1.0, abs=0.2)
    assert np.mean(ranks) == pytest.approx(0.5, abs=0.04)


def test_a_feature_that_is_the_future_is_refused(dataset: Dataset, settings: Settings) -> None:
    features = dataset.rows.features.copy()
    features[:, 6] = dataset.rows.future_volatility  # volatility
    with pytest.raises(TrainingError, match=r"leak: .* scores a PR-AUC of"):
        experiment.run(replace(dataset.rows, features=features), settings)


def test_the_final_part_changes_nothing_but_its_own_scores(
    dataset: Dataset, settings: Settings, trained: Experiment
) -> None:
    future = dataset.rows.future_volatility.copy()
    final = trained.part.split.test
    future[final] = np.random.default_rng(0).permutation(future[final]) * 3
    features = dataset.rows.features.copy()
    features[final] *= 7
    other = experiment.run(replace(dataset.rows, future_volatility=future, features=features), settings)
    assert other.final.threshold == trained.final.threshold
    assert other.model.trials == trained.model.trials
    assert other.model.decision_threshold == trained.model.decision_threshold
    assert other.model.fitted.to_onnx() == trained.model.fitted.to_onnx()
    assert other.model.metrics != trained.model.metrics


def test_each_part_takes_its_threshold_from_its_own_training_rows(trained: Experiment) -> None:
    assert trained.final.threshold == spike_threshold(trained.part.train.future_volatility, 0.90)
    parts = [*trained.folds, trained.final]
    assert all(part.climatology == pytest.approx(0.10, abs=0.01) for part in parts)
    assert len({part.threshold for part in parts}) == len(parts)


def test_the_threshold_can_follow_the_most_recent_rows(dataset: Dataset, settings: Settings) -> None:
    future = dataset.rows.future_volatility.copy()
    future[: len(future) // 2] *= 10  # a livelier morning
    rows = replace(dataset.rows, future_volatility=future)
    part = experiment.run(rows, replace(settings, threshold_rows=600)).part
    assert part.threshold == spike_threshold(part.train.future_volatility[-600:], 0.90)
    assert part.train_y.mean() > 0.4
    with pytest.raises(InputError, match=r"single-class labels: the final part tests on .* all no spikes"):
        experiment.run(rows, settings)


def test_parts_follow_each_other_in_time_and_share_no_row(trained: Experiment) -> None:
    parts = [*trained.folds, trained.final]
    assert [part.part for part in parts] == ["fold 1", "fold 2", "fold 3", "final"]
    assert all(before.time_ns[-1] < after.time_ns[0] for before, after in itertools.pairwise(parts))


def test_what_is_scored_is_what_the_model_says_of_the_final_part(trained: Experiment) -> None:
    said = trained.model.fitted.probabilities(trained.part.test.features)
    assert np.array_equal(trained.final.probabilities["logistic"], said)
    assert trained.final.probabilities.keys() == {"zscore", "ewma", "har", "logistic"}


def test_the_model_for_core_1_sees_no_other_column_and_the_baselines_do(dataset: Dataset, settings: Settings) -> None:
    result = experiment.run(dataset.rows, replace(settings, schema=CORE_1, ablate=False))
    assert result.model.fitted.schema == CORE_1
    assert set(result.model.fitted.columns) <= set(CORE_1.names)
    assert "ewma_volatility" in result.fitted["ewma"].columns
    again = result.model.fitted.probabilities(on_schema(result.part.test, CORE_1).features)
    assert np.array_equal(again, result.final.probabilities["logistic"])


def test_auto_takes_what_is_shown_to_beat_har_and_else_har(dataset: Dataset, settings: Settings) -> None:
    settings = replace(settings, model_type="auto", ablate=False, budget=Budget(trials=1, choices=2), folds=2)
    result = experiment.run(dataset.rows, settings)
    means = {name: mean_of_folds(one.fold_metrics)["pr_auc"] for name, one in result.candidates.items()}
    assert means.keys() == KINDS.keys()
    best = max(means, key=lambda name: means[name])
    assert best in LEARNERS
    assert result.leads[best].point == pytest.approx(means[best] - means["har"])
    assert result.kind == (best if result.leads[best].significantly_better else "har")
    assert next(iter(result.candidates)) == result.kind


def test_auto_ships_the_har_that_core_1_has_the_windows_for(dataset: Dataset, settings: Settings) -> None:
    settings = replace(
        settings, model_type="auto", schema=CORE_1, ablate=False, budget=Budget(trials=1, choices=2), folds=2
    )
    result = experiment.run(dataset.rows, settings)
    assert not any(lead.significantly_better for lead in result.leads.values())
    assert result.kind == "har_returns"
    assert set(result.model.fitted.columns) < set(CORE_1.names)
    assert set(result.candidates["har"].fitted.columns) - set(CORE_1.names)  # the baseline sees all windows


def test_har_for_core_1_is_refused(dataset: Dataset, settings: Settings) -> None:
    with pytest.raises(InputError, match="schema core/1 has 1 windows of volatility, 3 are needed"):
        experiment.run(dataset.rows, replace(settings, model_type="har", schema=CORE_1))


def test_a_feature_that_is_no_number_is_named(dataset: Dataset, settings: Settings) -> None:
    features = dataset.rows.features.copy()
    features[7, 3] = np.nan
    with pytest.raises(InputError, match="feature return_5s holds values that are no finite number"):
        experiment.run(replace(dataset.rows, features=features), settings)


@contextmanager
def scheduler() -> Iterator[str]:
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def test_on_a_dask_cluster_comes_out_what_comes_out_here(
    dataset: Dataset, settings: Settings, trained: Experiment
) -> None:
    said: list[str] = []
    with scheduler() as address, open_pool(address) as pool:
        other = experiment.run(dataset.rows, settings, said.append, pool)
    assert other.model.fitted.to_onnx() == trained.model.fitted.to_onnx()
    assert other.candidates["logistic"].metrics == trained.candidates["logistic"].metrics
    assert any("16 of 16 models" in line for line in said)


def test_an_error_on_the_cluster_is_the_error_here(dataset: Dataset, settings: Settings) -> None:
    with scheduler() as address, open_pool(address) as pool, pytest.raises(InputError, match="no such model"):
        pool.run(_refuse, None, [1], lambda finished, every: None)


def _refuse(shared: None, job: int) -> None:
    raise InputError("no such model")


def test_a_scheduler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.2)
    with (
        pytest.raises(InputError, match=r"--cluster tcp://127\.0\.0\.1:9: no Dask scheduler answers"),
        open_pool("tcp://127.0.0.1:9"),
    ):
        pytest.fail("it was entered")


def test_too_few_rows_are_refused(dataset: Dataset, settings: Settings) -> None:
    few = dataset.rows.take(np.arange(399))
    with pytest.raises(InputError, match="too little data: 399 usable rows, at least 400 are needed"):
        experiment.run(few, settings)


def test_a_market_that_stands_still_is_refused(dataset: Dataset, settings: Settings) -> None:
    still = replace(dataset.rows, future_volatility=np.zeros(len(dataset.rows)))
    with pytest.raises(InputError, match=r"the final part trains on .* the mid never moved: the spike threshold is 0"):
        experiment.run(still, settings)
