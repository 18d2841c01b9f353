"""The queue in front of the model, and its batches.

Batching without added delay: when the model is free, its next batch takes all waiting work up to `max_batch_rows`. The
queue is bounded: if it is full, calls are refused at once. Work whose deadline has passed or whose callers have
cancelled is dropped before it is computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from common.errors import DeadlineError, VolcastError
from server.core.dataplane import Computed, DataPlane, ModelRun, Outcome, ScoringJob

DEADLINE_PASSED = DeadlineError("the deadline had passed before the model ran")
# A job of more rows is computed on another thread. At this size our slowest model takes 0.5 to 1 ms, and no other call
# should wait longer for the event loop.
INLINE_ROWS = 2048


class Replies(Protocol):
    """Sends the outcome of a work item to its callers."""

    @property
    def abandoned(self) -> bool:
        """Whether no caller waits for the outcome any more."""

    def send(self, outcome: Outcome) -> None:
        """Called once, on the loop's thread, unless abandoned."""


class Work:
    """One item of the queue: a run of calls or frames that one job scores.

    job: an error instead of a job keeps its place in the order of a stream.
    deadline_ns: the earliest deadline of its calls, on the data plane's clock.
    calls: how many calls the item holds, for the bound of the queue.
    drop_cancelled: called before the job is scored; takes the rows of cancelled calls out of it.
    """

    __slots__ = ("calls", "deadline_ns", "drop_cancelled", "job", "replies")

    def __init__(
        self,
        job: ScoringJob | VolcastError,
        replies: Replies,
        deadline_ns: int | None = None,
        calls: int = 1,
        drop_cancelled: Callable[[ScoringJob], ScoringJob] | None = None,
    ) -> None:
        self.job = job
        self.replies = replies
        self.deadline_ns = deadline_ns
        self.calls = calls
        self.drop_cancelled = drop_cancelled


# offload(compute, done): run compute() on a worker thread, then done(its result) on the event loop.
Offload = Callable[[Callable[[], Computed], Callable[[Computed], None]], None]


class Batcher:
    """observe: called with each run of a model, after its callers have their responses."""

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
        self.calls = 0  # waiting
        self.dropped = 0  # since the start: expired or cancelled

    @property
    def room(self) -> int:
        """The number of calls that still fit into the queue; never negative."""
        return max(0, self._max_queue - self.calls)

    @property
    def waiting(self) -> int:
        """Work items in the queue."""
        return len(self._queue)

    def put(self, work: Work) -> None:
        self._queue.append(work)
        self.calls += work.calls
        if type(work.job) is ScoringJob:
            self.rows += len(work.job.matrix)

    def run(self) -> None:
        """Answers one batch of the waiting work."""
        batch = self._take()
        jobs = [work.job for work in batch if type(work.job) is ScoringJob]
        if jobs and len(jobs[0].matrix) > INLINE_ROWS:  # such a job is a batch of its own
            self._offload(lambda: self._computed(jobs), lambda computed: self._send(batch, computed))
        else:
            self._send(batch, self._computed(jobs) if jobs else Computed([], []))

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
                if work.replies.abandoned:
                    self.dropped += work.calls
                    self.calls -= work.calls
                    queue.popleft()
                    continue
                if work.deadline_ns is not None and work.deadline_ns <= now_ns:
                    self.dropped += work.calls
                    work.job = DEADLINE_PASSED
                else:
                    if work.drop_cancelled is not None:
                        work.job = work.drop_cancelled(job)
                    rows += count
            self.calls -= work.calls
            batch.append(queue.popleft())
            if type(job) is ScoringJob and len(job.matrix) > INLINE_ROWS:
                break  # computed on another thread, which must not share a batch with the event loop
        return batch

    def run_now(self, job: ScoringJob) -> Outcome:
        """Computes a job that has already waited, ahead of the queue."""
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
            # One job made the whole run fail: compute each job by itself.
            each = [self._computed([job]) for job in jobs]
            return Computed([single.outcomes[0] for single in each], [run for single in each for run in single.runs])

    def _send(self, batch: Sequence[Work], computed: Computed) -> None:
        outcomes = iter(computed.outcomes)
        fault: Exception | None = None
        for work in batch:
            job = work.job
            outcome = next(outcomes) if isinstance(job, ScoringJob) else job
            if not work.replies.abandoned:
                try:
                    work.replies.send(outcome)
                except Exception as error:  # a fault in one response must not prevent the batch's other responses
                    fault = error
        for run in computed.runs:
            self.observe(run)
        if fault is not None:
            raise fault


class FaultError(VolcastError):
    """An internal fault: the edges log its cause and do not show it to the caller."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("internal error")
        self.__cause__ = cause
