from __future__ import annotations

import pytest

from training.forecasting.onnx_forecast import OnnxForecast


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement of the latency takes a second, and its result depends on the load."""
    monkeypatch.setattr(OnnxForecast, "call_us", lambda model, features: 8.0)
