"""The thread that scores shadow versions, in what the answers leave of the machine."""

from __future__ import annotations

import threading
from time import perf_counter
from typing import Any

from server.core.shadow import ShadowScorer

LOOK_EVERY_S = 0.02
IDLE_S = 1.0  # while no model has a shadow
# It works a quarter of the time at most. A lower priority of the thread would not do: the thread would be
# put aside while it holds the interpreter's lock, and every answer would wait for it.
REST = 3.0


class ShadowThread:
    def __init__(self, shadows: ShadowScorer, log: Any) -> None:
        self._shadows = shadows
        self._log = log
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

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
                pause_s = REST * (perf_counter() - started_s)
            else:
                pause_s = LOOK_EVERY_S if self._shadows.active else IDLE_S
