# mypy: ignore-errors
"""FastAPI with pydantic models on uvicorn (uvloop, httptools), one ONNX call a request."""

from __future__ import annotations

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from scoring import HOST, Scorer, port

app = FastAPI()
score = Scorer()


class Rows(BaseModel):
    rows: list[list[float]]


class Probabilities(BaseModel):
    probabilities: list[float]


# A coroutine: the model takes microseconds, a hop to the thread pool takes more.
@app.post("/predict")
async def predict(body: Rows) -> Probabilities:
    return Probabilities(probabilities=score(np.array(body.rows)).tolist())


if __name__ == "__main__":
    uvicorn.run(app, host=HOST, port=port(), loop="uvloop", http="httptools", access_log=False, log_level="warning")
