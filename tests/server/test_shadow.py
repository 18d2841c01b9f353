from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.core.arrays import Matrix, Vector
from server.core.dataplane import ModelRun
from server.core.models import Repository
from server.core.requests import Selection
from server.core.shadow import MAX_SCORED_ROWS, Agreement, ShadowScorer
from server.core.snapshot import Model
from server.runtime.shadow_thread import ShadowThread
from tests.processes import await_true
from tests.server.bundles import Logistic, other_schema, rows, write_bundle

SHADOW = ("volatility", "2")


class Recorder:
    def __init__(self) -> None:
        self.events: list[str] = []

    def exception(self, event: str, **fields: Any) -> None:
        self.events.append(event)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """volatility/1 stable at 0.5, /2 its shadow at 0.25, /3 without a label; jumps/1 without a shadow."""
    write_bundle(tmp_path, version="1", seed=1)
    write_bundle(tmp_path, version="2", seed=2, threshold=0.25)
    write_bundle(tmp_path, version="3", seed=3)
    write_bundle(tmp_path, version="4", seed=3, change=other_schema)
    write_bundle(tmp_path, "jumps")
    (tmp_path / "volatility" / "labels.json").write_text('{"stable": "1", "shadow": ["2"]}')
    repository = Repository("volatility")
    assert repository.load(tmp_path).failures == ()
    return repository


def answer(shadows: ShadowScorer, model: Model, matrix: Matrix) -> Vector:
    probabilities = model.predictor.predict(matrix)
    shadows.offer(ModelRun(model, matrix, probabilities, 0))
    return probabilities


def score_all(shadows: ShadowScorer) -> int:
    scored = 0
    while rows := shadows.score_some():
        scored += rows
    return scored


def test_differences_and_decisions_are_those_of_the_two_formulas(repository: Repository) -> None:
    shadows = ShadowScorer(repository)
    stable = repository.resolve(Selection())
    for seed in range(7):
        answer(shadows, stable, rows(3 + 40 * seed, seed))
    matrix = np.concatenate([rows(3 + 40 * seed, seed) for seed in range(7)])
    first, second = Logistic(1).predict(matrix), Logistic(2).predict(matrix)
    assert score_all(shadows) == len(matrix)
    agreement = shadows.agreements[SHADOW]
    assert (agreement.rows, agreement.dropped_rows, agreement.failed_rows) == (len(matrix), 0, 0)
    assert agreement.difference_sum == pytest.approx(np.abs(first - second).sum(), rel=1e-9)
    assert agreement.difference_max == pytest.approx(np.abs(first - second).max(), rel=1e-9)
    assert agreement.agreed_rows == int(((first >= 0.5) == (second >= 0.25)).sum())
    assert 0 < agreement.agreed_rows < len(matrix)


def test_a_decision_is_at_least_the_threshold() -> None:
    agreement = Agreement()
    agreement.add(np.array([0.5, 0.4]), 0.5, np.array([0.25, 0.2]), 0.25)
    assert agreement.agreed_rows == 2
    agreement.add(np.array([0.5, 0.4]), 0.5, np.array([0.2, 0.25]), 0.25)
    assert (agreement.rows, agreement.agreed_rows) == (4, 2)
    assert agreement.difference_max == pytest.approx(0.3)
    assert agreement.difference_sum == pytest.approx(0.25 + 0.2 + 0.3 + 0.15)


def test_rows_without_a_probability_are_counted_apart_and_spoil_no_sum() -> None:
    agreement = Agreement()
    agreement.add(np.array([0.5, 0.5, np.nan]), 0.5, np.array([np.nan, 0.75, 0.5]), 0.5)
    assert (agreement.rows, agreement.failed_rows, agreement.agreed_rows) == (1, 1, 1)
    assert (agreement.difference_sum, agreement.difference_max) == (0.25, 0.25)
    agreement.add(np.array([0.5]), 0.5, np.array([np.inf]), 0.5)
    assert (agreement.rows, agreement.failed_rows) == (1, 2)


@pytest.mark.parametrize(
    "selection",
    [Selection(name="jumps"), Selection(version="2"), Selection(version="4")],
    ids=lambda selection: str(selection),
)
def test_answers_with_nothing_to_compare_are_not_taken(repository: Repository, selection: Selection) -> None:
    """Of a model without a shadow, of the shadow itself, of a version with other features."""
    shadows = ShadowScorer(repository)
    model = repository.resolve(selection)
    shadows.offer(ModelRun(model, rows(3), np.full(3, 0.5), 0))
    assert score_all(shadows) == 0
    assert shadows.agreements == {}


def test_other_versions_of_the_model_are_compared_too(repository: Repository) -> None:
    shadows = ShadowScorer(repository)
    answer(shadows, repository.resolve(Selection(version="3")), rows(3))
    assert score_all(shadows) == 3


def test_nothing_is_wanted_where_no_model_has_a_shadow() -> None:
    assert not ShadowScorer(Repository("volatility")).active


def test_what_is_offered_is_a_copy(repository: Repository) -> None:
    shadows = ShadowScorer(repository)
    matrix = rows(5)
    probabilities = answer(shadows, repository.resolve(Selection()), matrix)
    expected = np.abs(probabilities - Logistic(2).predict(matrix)).sum()
    matrix[:] = 0
    probabilities[:] = 0
    score_all(shadows)
    assert shadows.agreements[SHADOW].difference_sum == pytest.approx(expected)


def test_a_full_queue_drops_and_counts_and_takes_again_when_there_is_room(repository: Repository) -> None:
    shadows = ShadowScorer(repository, max_waiting_rows=10)
    stable = repository.resolve(Selection())
    answer(shadows, stable, rows(8))
    answer(shadows, stable, rows(3))
    answer(shadows, stable, rows(2))
    answer(shadows, stable, rows(1))
    assert shadows.agreements[SHADOW].dropped_rows == 4
    assert score_all(shadows) == 10
    answer(shadows, stable, rows(10))
    assert score_all(shadows) == 10
    assert (shadows.agreements[SHADOW].rows, shadows.agreements[SHADOW].dropped_rows) == (20, 4)


def test_rows_that_wait_for_the_scorer_still_count_as_waiting(repository: Repository) -> None:
    shadows = ShadowScorer(repository, max_waiting_rows=MAX_SCORED_ROWS + 10)
    stable = repository.resolve(Selection())
    answer(shadows, stable, rows(MAX_SCORED_ROWS + 10))
    assert shadows.score_some() == MAX_SCORED_ROWS
    answer(shadows, stable, rows(MAX_SCORED_ROWS + 1))
    assert shadows.agreements[SHADOW].dropped_rows == MAX_SCORED_ROWS + 1
    assert score_all(shadows) == 10


def test_small_answers_are_scored_together_and_large_ones_in_parts(repository: Repository) -> None:
    shadows = ShadowScorer(repository)
    stable, third = repository.resolve(Selection()), repository.resolve(Selection(version="3"))
    for model, count in ((stable, 200), (stable, 56), (stable, 1), (third, 2), (stable, 600)):
        answer(shadows, model, rows(count))
    steps = []
    while scored := shadows.score_some():
        steps.append(scored)
    assert steps == [256, 1, 2, 256, 256, 88]


def test_a_shadow_that_cannot_score_is_counted_and_nothing_else(repository: Repository) -> None:
    class Broken:
        def predict(self, matrix: Matrix) -> Vector:
            raise RuntimeError("no")

    class Short:
        def predict(self, matrix: Matrix) -> Vector:
            return np.zeros(1)

    shadows = ShadowScorer(repository)
    stable = repository.resolve(Selection())
    for predictor in (Broken(), Short()):
        shadow = Model("volatility", "2", stable.schema, 0.5, predictor)  # type: ignore[arg-type]
        object.__setattr__(repository.snapshot, "shadows", {"volatility": (shadow,)})
        answer(shadows, stable, rows(4))
        assert score_all(shadows) == 4
    assert (shadows.agreements[SHADOW].rows, shadows.agreements[SHADOW].failed_rows) == (0, 8)


def test_answers_of_many_threads_are_all_counted_by_the_scoring_thread(repository: Repository) -> None:
    shadows = ShadowScorer(repository)
    stable = repository.resolve(Selection())
    scorer = ShadowThread(shadows, Recorder())
    scorer.start()
    callers = [
        threading.Thread(target=lambda: [answer(shadows, stable, rows(2)) for _ in range(200)]) for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    await_true(lambda: SHADOW in shadows.agreements and shadows.agreements[SHADOW].rows == 1600)
    assert shadows.agreements[SHADOW].dropped_rows == 0
    scorer.stop()
    assert "shadow" not in {thread.name for thread in threading.enumerate()}


def test_the_scoring_thread_outlives_a_fault(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    shadows, log = ShadowScorer(repository), Recorder()
    whole = shadows.score_some

    def once() -> int:
        monkeypatch.setattr(shadows, "score_some", whole)
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(shadows, "score_some", once)
    scorer = ShadowThread(shadows, log)
    scorer.start()
    answer(shadows, repository.resolve(Selection()), rows(3))
    await_true(lambda: SHADOW in shadows.agreements and shadows.agreements[SHADOW].rows == 3)
    scorer.stop()
    assert log.events == ["shadow_failed"]
