# mypy: ignore-errors
"""BentoML over HTTP, one worker."""

from __future__ import annotations

import bentoml
import numpy as np
from pydantic import BaseModel
from scoring import Scorer


class Probabilities(BaseModel):
    probabilities: list[float]


# max_concurrency stays unset and nothing is counted or logged a call.
@bentoml.service(
    workers=1,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    monitoring={"enabled": False},
)
class Volatility:
    def __init__(self) -> None:
        self._score = Scorer()

    # A model of its own for the answer: for a bare list BentoML derives a JSON schema anew each call.
    @bentoml.api
    async def predict(self, rows: list[list[float]]) -> Probabilities:
        return Probabilities(probabilities=self._score(np.array(rows)).tolist())
