# mypy: ignore-errors
"""BentoML over HTTP, one worker."""

from __future__ import annotations

import bentoml
import numpy as np
from scoring import Scorer


@bentoml.service(
    workers=1,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    monitoring={"enabled": False},
)
class Volatility:
    def __init__(self) -> None:
        self._score = Scorer()

    @bentoml.api
    async def predict(self, rows: list[list[float]]) -> list[float]:
        return self._score(np.array(rows)).tolist()
