"""What goes into one run, and on which thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import pytest

from server.core.batcher import INLINE_ROWS, Batcher
from server.core.dataplane import Computed, DataPlane, Outcome, Result, ScoringJob
from server.core.models import Repository
from server.core.predictor import MAX_BOUND_ROWS
from server.runtime.batch_loop import BatchLoop
from tests.server.bundles import Logistic, rows, write_bundle


class Work:
    deadline_ns: int | None = None
    cancelled = False

    def __init__(self, job: ScoringJob) -> None:
        self.job = job
        self.outcome: Outcome | None = None

    def finish(self, outcome: Outcome) -> None:
        self.outcome = outcome


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    write_bundle(tmp_path)
    write_bundle(tmp_path, "other", seed=2)
    one = Repository("volatility")
    one.load(tmp_path)
    return one


def test_a_large_job_is_a_batch_of_its_own_whatever_the_batch_may_hold(repository: Repository) -> None:
    """On the other thread nothing may run that the loop runs itself: its buffers are the loop's."""
    large, small = (repository.snapshot.labelled[name, "stable"] for name in ("volatility", "other"))
    elsewhere: list[int] = []

    def offload(compute: Callable[[], Computed], finish: Callable[[Computed], None]) -> None:
        computed: list[Computed] = []
        thread = threading.Thread(target=lambda: computed.append(compute()))
        thread.start()
        thread.join()
        elsewhere.append(sum(len(run.matrix) for run in computed[0].runs))
        finish(computed[0])

    plane = DataPlane(repository, 65_536, perf_counter_ns)
    batcher = Batcher(plane, 65_536, 512, offload)
    works = [Work(ScoringJob(small, rows(MAX_BOUND_ROWS, 1), 0)), Work(ScoringJob(large, rows(INLINE_ROWS + 1, 2), 0))]
    works += [Work(ScoringJob(small, rows(MAX_BOUND_ROWS, 3), 0)), Work(ScoringJob(large, rows(INLINE_ROWS + 5, 4), 0))]
    for work in works:
        batcher.put(work)
    while batcher.waiting:
        batcher.run()
    assert elsewhere == [INLINE_ROWS + 1, INLINE_ROWS + 5]
    for work in works:
        assert isinstance(work.outcome, Result)
        seed = 1 if work.job.model is large else 2
        np.testing.assert_allclose(work.outcome.probabilities, Logistic(seed).predict(work.job.matrix))
    assert batcher.rows == 0


async def test_after_a_fault_the_loop_goes_on_with_what_waits(repository: Repository) -> None:
    class Broken(Work):
        def finish(self, outcome: Outcome) -> None:
            raise RuntimeError("of one connection")

    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    model = repository.snapshot.labelled["volatility", "stable"]
    loop = BatchLoop(DataPlane(repository, 65_536, perf_counter_ns), 1, 512, 0)
    broken, behind = Broken(ScoringJob(model, rows(1, 1), 0)), Work(ScoringJob(model, rows(1, 2), 0))
    loop.put(broken)
    loop.put(behind)
    for _ in range(10):  # turns of the loop
        await asyncio.sleep(0)
    assert isinstance(behind.outcome, Result)
    assert [str(one["exception"]) for one in told] == ["of one connection"]


def test_a_fault_in_one_callers_answer_leaves_the_others_theirs_and_is_told(repository: Repository) -> None:
    class Broken(Work):
        def finish(self, outcome: Outcome) -> None:
            raise RuntimeError("of one connection")

    model = repository.snapshot.labelled["volatility", "stable"]
    observed: list[int] = []
    plane = DataPlane(repository, 65_536, perf_counter_ns)
    batcher = Batcher(plane, 256, 512, lambda compute, finish: finish(compute()), lambda run: observed.append(1))
    first, broken, last = (
        one(ScoringJob(model, rows(1, seed), 0)) for seed, one in ((1, Work), (2, Broken), (3, Work))
    )
    for work in (first, broken, last):
        batcher.put(work)
    with pytest.raises(RuntimeError, match="of one connection"):
        batcher.run()
    assert isinstance(first.outcome, Result)
    assert isinstance(last.outcome, Result)
    assert observed
    assert not batcher.waiting
