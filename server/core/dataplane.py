"""One request through: which model, which rows, what it says. Every door calls this and nothing else.

`prepare` and `compute` are apart so that whatever sits between them (a queue, a batcher) sees checked
jobs only: a bad request fails alone, before it could spoil a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from common.errors import RequestError
from server.core.models import Model, Repository
from server.core.requests import Matrix, PredictInput, Result
from server.core.rows import all_finite, to_matrix


class Job(msgspec.Struct, frozen=True):
    """A checked request: rows that fit the model that is to score them."""

    model: Model
    matrix: Matrix
    arrived_ns: int  # on the data plane's clock


class DataPlane:
    """now_ns: a monotonic clock; the core reads no clock of its own."""

    def __init__(self, repository: Repository, max_rows: int, now_ns: Callable[[], int]) -> None:
        self.repository = repository
        self.now_ns = now_ns
        self._max_rows = max_rows

    def prepare(self, request: PredictInput, arrived_ns: int) -> Job:
        """Raises RequestError, SchemaMismatchError or ModelNotFoundError."""
        model = self.repository.resolve(request.selection)
        return Job(model, to_matrix(request.rows, model.schema, self._max_rows), arrived_ns)

    def compute(self, job: Job) -> Result:
        """Raises RequestError where the model has no probability for a row, finite as its values are."""
        started_ns = self.now_ns()
        probabilities = job.model.predictor.predict(job.matrix)
        ended_ns = self.now_ns()
        if not all_finite(probabilities):
            row = int(np.argmin(np.isfinite(probabilities)))
            what = f"row {row}: outside the range of model {job.model.name}/{job.model.version}: it has no probability"
            raise RequestError.of("rows", what)
        return Result(job.model, probabilities, started_ns - job.arrived_ns, ended_ns - started_ns)
