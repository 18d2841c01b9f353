"""The batcher on an event loop: a run as soon as the loop has read everything that is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from common.errors import OverloadedError
from server.core.batcher import Batcher, Work
from server.core.dataplane import Computed, DataPlane, ModelRun

RETRY_AFTER_S = 0.05  # what waits when the queue is full is a few milliseconds of work


class BatchLoop:
    """Must be built on the running loop.

    max_delay_us: how long a batch may wait for more calls; 0: not at all.
    feed: called before each run, to put what streams have ready.
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
        self.max_queue = max_queue
        self._max_delay_s = max_delay_us * 1e-6
        self._timer: asyncio.Handle | None = None
        self.feed: Callable[[], bool] = lambda: False
        self.after: Callable[[], None] = lambda: None
        self.overloaded = OverloadedError("too many calls are waiting for the model", RETRY_AFTER_S)

    @property
    def waits(self) -> bool:
        """Whether calls wait, or are to wait for others."""
        return self.batcher.waiting > 0 or self._max_delay_s > 0

    def put(self, work: Work) -> None:
        self.batcher.put(work)
        self.wake()

    def wake(self, rows: int = 0) -> None:
        """A run is due: at the end of this turn of the loop, or once the delay is over or the batch is full.

        rows: how many wait elsewhere, for `feed` to put.
        """
        rows += self.batcher.rows
        if self._timer is None:
            if self._max_delay_s and rows < self.max_batch_rows:
                self._timer = self._loop.call_later(self._max_delay_s, self._turn)
            else:
                self._timer = self._loop.call_soon(self._turn)
        elif self._max_delay_s and rows >= self.max_batch_rows:
            self._timer.cancel()
            self._timer = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._timer = None
        more = self.feed()
        try:
            self.batcher.run()
        finally:  # the loop logs a fault; what waits is not to wait for the next caller
            self.after()
            if more or self.batcher.waiting:
                self._timer = self._loop.call_soon(self._turn)

    def _offload(self, compute: Callable[[], Computed], finish: Callable[[Computed], None]) -> None:
        def done(future: asyncio.Future[Computed]) -> None:
            if not future.cancelled():
                try:
                    finish(future.result())
                finally:
                    self.after()

        self._loop.run_in_executor(None, compute).add_done_callback(done)
