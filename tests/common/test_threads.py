"""A thread that a process needs goes on after a fault, and says so."""

from __future__ import annotations

from threading import Event
from typing import Any

import pytest

from common.threads import essential_thread


class Log:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def exception(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})


@pytest.mark.parametrize("error", [OSError("no space"), SystemExit(3), KeyError("x")])
def test_a_thread_that_fails_is_logged_and_begins_again(error: BaseException) -> None:
    log, again, attempts = Log(), Event(), 0

    def run() -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise error
        again.set()

    thread = essential_thread("reload", run, log)
    thread.start()
    assert again.wait(10)
    thread.join(10)
    assert not thread.is_alive()
    assert log.events == [{"event": "thread_failed", "thread": "reload"}] * 2
