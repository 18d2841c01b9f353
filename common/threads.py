"""Threads that a process cannot do without."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

RESTART_PAUSE_S = 0.1


def essential_thread(name: str, run: Callable[[], None], log: Any) -> threading.Thread:
    """A daemon thread, not yet started, that ends when `run` returns.

    If `run` raises, the error is logged and `run` begins again after RESTART_PAUSE_S. So `run` must take
    up its work from its own state.
    """

    def supervised() -> None:
        while True:
            try:
                run()
                return
            except BaseException:  # SystemExit ends a thread in silence, so it is caught too
                log.exception("thread_failed", thread=name)
            pause.wait(RESTART_PAUSE_S)

    pause = threading.Event()
    return threading.Thread(target=supervised, name=name, daemon=True)
