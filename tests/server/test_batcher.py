"""What goes into one run, and on which thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import pytest

from server.core.batcher import INLINE_ROWS, Batcher, Work
from server.core.dataplane import Computed, DataPlane, Outcome, Result, ScoringJob
from server.core.models import Repository
from server.core.predictor import MAX_BOUND_ROWS
from server.core.snapshot import Model
from server.runtime.batch_loop import BatchLoop
from tests.server.bundles import Logistic, rows, write_bundle


class Recorder:
    """Replies that keep the outcome."""

    abandoned = False

    def __init__(self) -> None:
        self.outcome: Outcome | None = None

    def send(self, outcome: Outcome) -> None:
        self.outcome = outcome


class Broken(Recorder):
    """Replies of a connection at fault."""

    def send(self, outcome: Outcome) -> None:
        raise RuntimeError("of one connection")


def work(model: Model, count: int, seed: int, replies: Recorder | None = None) -> tuple[Work, Recorder]:
    replies = replies or Recorder()
    return Work(ScoringJob(model, rows(count, seed), 0), replies), replies


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
    works = [
        work(small, MAX_BOUND_ROWS, 1),
        work(large, INLINE_ROWS + 1, 2),
        work(small, MAX_BOUND_ROWS, 3),
        work(large, INLINE_ROWS + 5, 4),
    ]
    jobs = [item.job for item, _ in works]
    for item, _ in works:
        batcher.put(item)
    while batcher.waiting:
        batcher.run()
    assert elsewhere == [INLINE_ROWS + 1, INLINE_ROWS + 5]
    for job, (_, replies) in zip(jobs, works, strict=True):
        assert isinstance(job, ScoringJob)
        assert isinstance(replies.outcome, Result)
        seed = 1 if job.model is large else 2
        np.testing.assert_allclose(replies.outcome.probabilities, Logistic(seed).predict(job.matrix))
    assert (batcher.rows, batcher.calls) == (0, 0)


async def test_after_a_fault_the_loop_goes_on_with_what_waits(repository: Repository) -> None:
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    model = repository.snapshot.labelled["volatility", "stable"]
    loop = BatchLoop(DataPlane(repository, 65_536, perf_counter_ns), 1, 512, 0)
    loop.put(work(model, 1, 1, Broken())[0])
    item, behind = work(model, 1, 2)
    loop.put(item)
    for _ in range(10):  # turns of the loop
        await asyncio.sleep(0)
    assert isinstance(behind.outcome, Result)
    assert [str(one["exception"]) for one in told] == ["of one connection"]


def test_a_fault_in_one_callers_answer_leaves_the_others_theirs_and_is_told(repository: Repository) -> None:
    model = repository.snapshot.labelled["volatility", "stable"]
    observed: list[int] = []
    plane = DataPlane(repository, 65_536, perf_counter_ns)
    batcher = Batcher(plane, 256, 512, lambda compute, finish: finish(compute()), lambda run: observed.append(1))
    first, last = Recorder(), Recorder()
    for seed, replies in enumerate((first, Broken(), last)):
        batcher.put(work(model, 1, seed, replies)[0])
    with pytest.raises(RuntimeError, match="of one connection"):
        batcher.run()
    assert isinstance(first.outcome, Result)
    assert isinstance(last.outcome, Result)
    assert observed
    assert not batcher.waiting
