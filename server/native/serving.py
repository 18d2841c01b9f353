"""Shared by all connections and calls of the native front: batcher, templates, metrics, and a flush list."""

from __future__ import annotations

from typing import Any, Protocol

from common.errors import VolcastError
from common.rpc_status import to_status
from server.core.batcher import INLINE_ROWS, FaultError
from server.core.dataplane import DataPlane
from server.native.inflating import InflateTurns
from server.native.spin import Spinner
from server.runtime.batch_loop import BatchLoop
from server.runtime.metrics import ServerMetrics
from server.runtime.state import ServerState
from server.wire.inline import InlineScorer
from server.wire.response import ModelFields
from server.wire.templates import TemplateCache


class Flushable(Protocol):
    def flush(self) -> None: ...


class FrameSource(Protocol):
    def queue_frames(self) -> None:
        """Puts the frames that have arrived into the batcher. Raises nothing."""


class Serving:
    """Imports neither connections nor calls: their modules import this one."""

    def __init__(
        self,
        plane: DataPlane,
        batches: BatchLoop,
        state: ServerState,
        metrics: ServerMetrics,
        spinner: Spinner,
        inflate_turns: InflateTurns,
        log: Any,
    ) -> None:
        self.plane = plane
        self.now_ns = plane.now_ns
        self.batches = batches
        self.state = state
        self.metrics = metrics
        self.spinner = spinner
        self.inflate_turns = inflate_turns
        self.log = log
        self.templates = TemplateCache()
        self.model_fields = ModelFields(plane.repository)
        self.inline = InlineScorer(plane, batches, metrics)
        # A larger job would be computed on another thread, and later calls would be answered before it.
        self.max_run_rows = min(INLINE_ROWS, batches.max_batch_rows)
        self._batcher = batches.batcher
        self._is_undelayed = batches.idle and batches.batcher.room > 0  # no batch waits for more calls
        self._to_flush: dict[Flushable, None] = {}
        self._sources: dict[FrameSource, None] = {}
        batches.before_batch = self._queue_frames
        batches.after_batch = self.flush_marked

    @property
    def may_score_inline(self) -> bool:
        """Whether a single request may be scored at once: nothing is queued, and calls come one by one."""
        return self.spinner.few_bytes and not self._batcher.calls and self._is_undelayed and self.state.accepting

    def mark_source(self, source: FrameSource) -> None:
        """Marks a stream with unread frames. They are queued once per turn of the loop, in one batch for all reads."""
        self._sources[source] = None
        self.batches.wake()

    def _queue_frames(self) -> None:
        sources, self._sources = self._sources, {}
        for source in sources:
            source.queue_frames()

    def mark_for_flush(self, connection: Flushable) -> None:
        """Marks a connection with output, which is written after the current batch or read."""
        self._to_flush[connection] = None

    def flush_marked(self) -> None:
        marked, self._to_flush = self._to_flush, {}
        for connection in marked:
            connection.flush()

    def status_of(self, error: Exception) -> Any:
        """The google.rpc.Status of an error. Logs the cause of an internal fault; its text stays in the server."""
        if not isinstance(error, VolcastError):
            error = FaultError(error)
        if isinstance(error, FaultError):
            self.log.error("request_failed", exc_info=error.__cause__)
        return to_status(error)
