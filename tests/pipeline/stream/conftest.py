"""Time that stands still for the worker and for what waits for the inference server."""

from __future__ import annotations

import pytest

from pipeline.stream import forecast, worker
from tests.pipeline.stream.fakes import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (forecast, worker):
        monkeypatch.setattr(module, "time", clock)
    return clock
