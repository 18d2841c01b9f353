"""Which work items share a run of a model, and on which thread a run happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import pytest

from common.errors import RequestError
from server.core.batcher import DEADLINE_PASSED, INLINE_ROWS, Batcher, Work
from server.core.dataplane import Computed, DataPlane, ModelRun, Outcome, Result, ScoringJob
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
    repository = Repository("volatility")
    repository.load(tmp_path)
    return repository


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
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    model = repository.snapshot.labelled["volatility", "stable"]
    loop = BatchLoop(DataPlane(repository, 65_536, perf_counter_ns), 1, 512, 0)
    loop.put(work(model, 1, 1, Broken())[0])
    item, behind = work(model, 1, 2)
    loop.put(item)
    for _ in range(10):  # turns of the loop
        await asyncio.sleep(0)
    assert isinstance(behind.outcome, Result)
    assert [str(context["exception"]) for context in reported] == ["of one connection"]


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


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1000

    def __call__(self) -> int:
        return self.now_ns


class Bench:
    """A batcher whose runs are recorded by their rows."""

    def __init__(self, repository: Repository, max_batch_rows: int = 8, max_queue: int = 4) -> None:
        self.model = repository.snapshot.labelled["volatility", "stable"]
        self.runs: list[int] = []
        self.clock = Clock()
        plane = DataPlane(repository, 65_536, self.clock)
        self.batcher = Batcher(
            plane, max_batch_rows, max_queue, lambda compute, done: done(compute()), lambda run: self._observe(run)
        )

    def _observe(self, run: ModelRun) -> None:
        self.runs.append(len(run.matrix))

    def put(self, *counts: int, deadline_ns: int | None = None, calls: int = 1) -> list[Recorder]:
        kept: list[Recorder] = []
        for seed, count in enumerate(counts):
            replies = Recorder()
            job = ScoringJob(self.model, rows(count, seed), 0)
            self.batcher.put(Work(job, replies, deadline_ns, calls))
            kept.append(replies)
        return kept

    def run_all(self) -> list[int]:
        while self.batcher.waiting:
            self.batcher.run()
        return self.runs


@pytest.fixture
def bench(repository: Repository) -> Bench:
    return Bench(repository)


@pytest.mark.parametrize(
    ("counts", "runs"), [((8,), [8]), ((4, 4), [8]), ((4, 5), [4, 5]), ((3, 4, 1, 1), [8, 1]), ((9, 1), [9, 1])]
)
def test_a_batch_takes_whole_jobs_up_to_its_limit(bench: Bench, counts: tuple[int, ...], runs: list[int]) -> None:
    bench.put(*counts)
    assert bench.run_all() == runs


@pytest.mark.parametrize(("after_ns", "in_time"), [(-1, True), (0, False), (1, False)])
def test_a_deadline_that_is_now_has_passed(bench: Bench, after_ns: int, in_time: bool) -> None:
    (replies,) = bench.put(3, deadline_ns=5000)
    bench.clock.now_ns = 5000 + after_ns
    bench.run_all()
    assert isinstance(replies.outcome, Result) is in_time
    assert (replies.outcome is DEADLINE_PASSED) is not in_time
    assert bench.batcher.dropped == (not in_time)


def test_expired_and_cancelled_rows_leave_their_place_in_the_batch_to_others(bench: Bench) -> None:
    (expired,) = bench.put(5, deadline_ns=1)
    (cancelled,) = bench.put(6)
    cancelled.abandoned = True
    bench.put(8)
    assert bench.run_all() == [8]
    assert expired.outcome is DEADLINE_PASSED
    assert cancelled.outcome is None
    assert (bench.batcher.dropped, bench.batcher.rows, bench.batcher.calls) == (2, 0, 0)


def test_rows_calls_and_room_count_what_waits(bench: Bench) -> None:
    assert (bench.batcher.rows, bench.batcher.calls, bench.batcher.room, bench.batcher.waiting) == (0, 0, 4, 0)
    bench.put(2)
    bench.put(3, calls=2)
    assert (bench.batcher.rows, bench.batcher.calls, bench.batcher.room, bench.batcher.waiting) == (5, 3, 1, 2)
    bench.put(1, calls=3)
    assert (bench.batcher.calls, bench.batcher.room) == (6, 0)
    bench.run_all()
    assert (bench.batcher.rows, bench.batcher.calls, bench.batcher.room, bench.batcher.waiting) == (0, 0, 4, 0)


def test_dropped_calls_are_counted_as_calls_not_as_work_items(bench: Bench) -> None:
    bench.put(2, deadline_ns=1, calls=7)
    (cancelled,) = bench.put(2, calls=5)
    cancelled.abandoned = True
    bench.run_all()
    assert bench.batcher.dropped == 12


@pytest.mark.parametrize(("count", "elsewhere"), [(INLINE_ROWS - 1, []), (INLINE_ROWS, []), (INLINE_ROWS + 1, [1])])
def test_only_a_job_of_more_rows_than_the_limit_runs_on_another_thread(
    repository: Repository, count: int, elsewhere: list[int]
) -> None:
    offloaded: list[int] = []

    def offload(compute: Callable[[], Computed], done: Callable[[Computed], None]) -> None:
        offloaded.append(1)
        done(compute())

    batcher = Batcher(DataPlane(repository, 65_536, perf_counter_ns), 65_536, 512, offload)
    model = repository.snapshot.labelled["volatility", "stable"]
    item, replies = work(model, count, 1)
    batcher.put(item)
    batcher.run()
    assert offloaded == elsewhere
    assert isinstance(replies.outcome, Result)


def test_an_error_in_the_place_of_a_job_is_sent_in_order(bench: Bench) -> None:
    order: list[str] = []

    class Ordered(Recorder):
        def send(self, outcome: Outcome) -> None:
            order.append(type(outcome).__name__)

    bench.batcher.put(Work(ScoringJob(bench.model, rows(1, 1), 0), Ordered()))
    bench.batcher.put(Work(RequestError.of("rows", "bad"), Ordered()))
    bench.batcher.put(Work(ScoringJob(bench.model, rows(1, 2), 0), Ordered()))
    assert bench.run_all() == [2]
    assert order == ["Result", "RequestError", "Result"]
