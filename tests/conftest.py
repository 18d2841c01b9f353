"""What holds for every test: generated cases are the same on each run, and a busy machine fails none of them."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from common.log import LibraryLogHandler

settings.register_profile("volcast", derandomize=True, deadline=None)
settings.load_profile("volcast")

pytest_plugins = ["tests.processes"]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Commands run in this process set up logs and signals; the next test finds neither."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, LibraryLogHandler)]
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
