"""Runs the batcher on an event loop: a batch runs after the loop has read all data that has arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from common.errors import OverloadedError
from server.core.batcher import Batcher, Work
from server.core.dataplane import Computed, DataPlane, ModelRun

RETRY_AFTER_S = 0.05  # hint to a refused caller; computing a full queue takes a few milliseconds


class BatchLoop:
    """Must be built on the running loop.

    max_delay_us: longest time that a batch waits for more calls; 0: batches do not wait.
    before_batch: called before each batch, to queue the frames of streams that have arrived.
    after_batch: called after each batch, when its responses have been written.
    """

    def __init__(
        self,
        plane: DataPlane,
        max_batch_rows: int,
        max_queue: int,
        max_delay_us: int,
        observe: Callable[[ModelRun], None] = lambda run: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.batcher = Batcher(plane, max_batch_rows, max_queue, self._offload, observe)
        self.max_batch_rows = max_batch_rows
        self._max_delay_s = max_delay_us * 1e-6
        self._timer: asyncio.Handle | None = None
        self.before_batch: Callable[[], None] = lambda: None
        self.after_batch: Callable[[], None] = lambda: None
        self.overloaded = OverloadedError("too many calls are waiting for the model", RETRY_AFTER_S)

    @property
    def idle(self) -> bool:
        """True if the queue is empty and batches do not wait for more calls."""
        return not self.batcher.waiting and not self._max_delay_s

    def put(self, work: Work) -> None:
        """Queues work. Its batch runs at the end of this turn of the loop, or after the delay if one is set."""
        self.batcher.put(work)
        self.wake()

    def wake(self) -> None:
        """A batch is due, although `before_batch` may still have to queue its work."""
        if self._timer is None:
            if self._max_delay_s and self.batcher.rows < self.max_batch_rows:
                self._timer = self._loop.call_later(self._max_delay_s, self._run_batch)
            else:
                self._timer = self._loop.call_soon(self._run_batch)
        elif self._max_delay_s and self.batcher.rows >= self.max_batch_rows:
            self._timer.cancel()
            self._timer = self._loop.call_soon(self._run_batch)

    def _run_batch(self) -> None:
        self._timer = None
        try:
            self.before_batch()
            self.batcher.run()
        finally:  # after an error, which the loop logs, the rest of the queue must not wait for the next call
            self.after_batch()
            if self.batcher.waiting and self._timer is None:
                self._timer = self._loop.call_soon(self._run_batch)

    def _offload(self, compute: Callable[[], Computed], done: Callable[[Computed], None]) -> None:
        def finished(future: asyncio.Future[Computed]) -> None:
            if not future.cancelled():
                try:
                    done(future.result())
                finally:
                    self.after_batch()

        self._loop.run_in_executor(None, compute).add_done_callback(finished)
