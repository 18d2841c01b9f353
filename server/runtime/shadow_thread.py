"""The thread that scores shadow versions, a quarter of the time at most."""

from __future__ import annotations

import threading
from time import perf_counter
from typing import Any

from common.threads import essential_thread
from server.core.shadow import ShadowScorer

POLL_S = 0.02
IDLE_S = 1.0  # while no model has a shadow
# The thread pauses three times as long as it worked. A lower priority instead would be worse: the scheduler would
# suspend the thread while it holds the interpreter's lock, and every answer would wait for it.
PAUSE_PER_WORK = 3.0


class ShadowThread:
    def __init__(self, shadows: ShadowScorer, log: Any) -> None:
        self._shadows = shadows
        self._log = log
        self._stopping = threading.Event()
        self._thread = essential_thread("shadow", self._run, log)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        self._stopping.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            started_s = perf_counter()
            try:
                scored = self._shadows.score_some()
            except Exception:
                self._log.exception("shadow_failed")
                scored = 0
            if scored:
                pause_s = PAUSE_PER_WORK * (perf_counter() - started_s)
            else:
                pause_s = POLL_S if self._shadows.active else IDLE_S
