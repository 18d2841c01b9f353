"""Calls that wait for the model, and the runs that answer them.

Batching without added delay: whatever waits when the model is free goes into its next run, up to
`max_batch_rows`. The queue is bounded: a call that finds it full is refused by its door, at once. A call
whose deadline has passed or whose caller has gone is dropped before it is computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from common.errors import DeadlineError, VolcastError
from server.core.dataplane import Computed, DataPlane, ModelRun, Outcome, ScoringJob

DEADLINE_PASSED = DeadlineError("the deadline had passed before the model ran")
# More rows than this are computed on another thread: so many of the slowest model we serve take half a
# millisecond to one, and nothing else should wait longer for the loop than that.
INLINE_ROWS = 2048


class Work(Protocol):
    """What a door queues for one call."""

    job: ScoringJob | VolcastError  # an error keeps its place in the order of a stream

    @property
    def deadline_ns(self) -> int | None: ...  # on the data plane's clock

    @property
    def cancelled(self) -> bool: ...  # the caller has gone

    def finish(self, outcome: Outcome) -> None:
        """Called once, on the loop's thread, unless cancelled."""


# Runs the first on another thread and then the second, with what it returned, on the loop's.
Offload = Callable[[Callable[[], Computed], Callable[[Computed], None]], None]


class Batcher:
    """observe: told of each run of a model, after its callers have their answers."""

    def __init__(
        self,
        plane: DataPlane,
        max_batch_rows: int,
        max_queue: int,
        offload: Offload,
        observe: Callable[[ModelRun], None] = lambda run: None,
    ) -> None:
        self._plane = plane
        self.observe = observe
        self._max_batch_rows = max_batch_rows
        self._max_queue = max_queue
        self._offload = offload
        self._queue: deque[Work] = deque()
        self.rows = 0  # waiting
        self.dropped = 0  # since the start: expired or cancelled

    @property
    def full(self) -> bool:
        return len(self._queue) >= self._max_queue

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def put(self, work: Work) -> None:
        self._queue.append(work)
        if type(work.job) is ScoringJob:
            self.rows += len(work.job.matrix)

    def run(self) -> None:
        """Answers one batch of what waits."""
        batch = self._take()
        jobs = [work.job for work in batch if type(work.job) is ScoringJob]
        if jobs and len(jobs[0].matrix) > INLINE_ROWS:  # such a job is a batch of its own
            self._offload(lambda: self._computed(jobs), lambda computed: self._finish(batch, computed))
        else:
            self._finish(batch, self._computed(jobs) if jobs else Computed([], []))

    def _take(self) -> list[Work]:
        queue, now_ns = self._queue, self._plane.now_ns()
        batch: list[Work] = []
        rows = 0
        while queue:
            work = queue[0]
            job = work.job
            if type(job) is ScoringJob:
                count = len(job.matrix)
                if rows and (rows + count > self._max_batch_rows or count > INLINE_ROWS):
                    break
                self.rows -= count
                if work.cancelled:
                    self.dropped += 1
                    queue.popleft()
                    continue
                if work.deadline_ns is not None and work.deadline_ns <= now_ns:
                    self.dropped += 1
                    work.job = DEADLINE_PASSED
                else:
                    rows += count
            batch.append(queue.popleft())
            if type(job) is ScoringJob and len(job.matrix) > INLINE_ROWS:
                break  # computed on another thread, where nothing may be that the loop computes itself
        return batch

    def run_now(self, job: ScoringJob) -> Outcome:
        """The outcome of a job that has waited already, before whatever waits."""
        computed = self._computed([job])
        for run in computed.runs:
            self.observe(run)
        return computed.outcomes[0]

    def _computed(self, jobs: Sequence[ScoringJob]) -> Computed:
        try:
            return self._plane.compute(jobs)
        except Exception as error:
            if len(jobs) == 1:
                return Computed([FaultError(error)], [])
            # One of them broke the run of all: each for itself.
            alone = [self._computed([job]) for job in jobs]
            return Computed([one.outcomes[0] for one in alone], [run for one in alone for run in one.runs])

    def _finish(self, batch: Sequence[Work], computed: Computed) -> None:
        outcomes = iter(computed.outcomes)
        fault: Exception | None = None
        for work in batch:
            job = work.job
            outcome = next(outcomes) if isinstance(job, ScoringJob) else job
            if not work.cancelled:
                try:
                    work.finish(outcome)
                except Exception as error:  # in one caller's answer: the others of the batch get theirs
                    fault = error
        for run in computed.runs:
            self.observe(run)
        if fault is not None:
            raise fault


class FaultError(VolcastError):
    """A fault of ours, which is no VolcastError: the doors log its cause and tell the caller nothing."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("internal error")
        self.__cause__ = cause
