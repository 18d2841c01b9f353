"""From a request to its answer: resolves the model, validates the rows, runs the model. Every endpoint calls this.

`prepare` and `compute` are separate steps, so that the batcher between them (server.core.batcher) gets validated jobs
only: an invalid request fails by itself, before it enters a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from common.errors import RequestError, VolcastError
from server.core.arrays import Matrix, Vector
from server.core.models import Repository
from server.core.predictor import MAX_BOUND_ROWS, all_in_range, in_range
from server.core.requests import PredictInput
from server.core.rows import all_finite
from server.core.snapshot import Model


class Result(msgspec.Struct, frozen=True):
    """The answer to one request."""

    model: Model
    probabilities: Vector
    queue_ns: int
    compute_ns: int


Outcome = Result | VolcastError


class ScoringJob(msgspec.Struct, frozen=True):
    """A validated request: a model, and rows that fit it."""

    model: Model
    matrix: Matrix
    arrived_ns: int  # on the data plane's clock


class ModelRun(msgspec.Struct, frozen=True):
    """One run of a model. Observers (metrics, shadows) receive it after the answers are sent."""

    model: Model
    matrix: Matrix
    probabilities: Vector
    compute_ns: int


class Computed(msgspec.Struct, frozen=True):
    outcomes: list[Outcome]  # one per job, in order
    runs: list[ModelRun]


class DataPlane:
    """now_ns: a monotonic clock; the core reads no clock of its own."""

    def __init__(self, repository: Repository, max_rows: int, now_ns: Callable[[], int]) -> None:
        self.repository = repository
        self.now_ns = now_ns
        self.max_rows = max_rows

    def prepare(self, request: PredictInput, arrived_ns: int) -> ScoringJob:
        """Raises RequestError, SchemaMismatchError or ModelNotFoundError."""
        model = self.repository.resolve(request.selection, request.routing_key)
        if request.rows is None:
            raise RequestError.of("rows", "expected `named` or `packed` rows, got none")
        return ScoringJob(model, request.rows.to_matrix(model.schema, self.max_rows), arrived_ns)

    def compute(self, jobs: Sequence[ScoringJob]) -> Computed:
        """The outcome of each job. The jobs of one model are scored in one run.

        The outcome is a RequestError if the model has no probability for a row, although its values are finite.
        """
        if len(jobs) == 1 or all(job.model is jobs[0].model for job in jobs):
            outcomes, run = self._run(jobs)
            return Computed(outcomes, [run])
        by_model: dict[int, list[int]] = {}
        for index, job in enumerate(jobs):
            by_model.setdefault(id(job.model), []).append(index)
        by_index: dict[int, Outcome] = {}
        runs = []
        for indices in by_model.values():
            outcomes, run = self._run([jobs[index] for index in indices])
            by_index.update(zip(indices, outcomes, strict=True))
            runs.append(run)
        return Computed([by_index[index] for index in range(len(jobs))], runs)

    def _run(self, jobs: Sequence[ScoringJob]) -> tuple[list[Outcome], ModelRun]:
        """Jobs of one model."""
        model = jobs[0].model
        matrix = jobs[0].matrix if len(jobs) == 1 else np.concatenate([job.matrix for job in jobs])
        started_ns = self.now_ns()
        # Bound buffers are for one thread: server.core.batcher computes so few rows on the event loop's thread only.
        run = model.predictor.raw_bound if len(matrix) <= MAX_BOUND_ROWS else model.predictor.raw
        probabilities = run(matrix)
        compute_ns = self.now_ns() - started_ns
        valid, begin = all_in_range(probabilities), 0
        if not valid:
            probabilities = in_range(probabilities)
        outcomes: list[Outcome] = []
        for job in jobs:
            end = begin + len(job.matrix)
            own = probabilities[begin:end]
            if valid or all_finite(own):
                outcomes.append(Result(model, own, started_ns - job.arrived_ns, compute_ns))
            else:
                outcomes.append(_out_of_range(model, own))
            begin = end
        return outcomes, ModelRun(model, matrix, probabilities, compute_ns)


def _out_of_range(model: Model, probabilities: Vector) -> RequestError:
    row = int(np.argmin(np.isfinite(probabilities)))
    what = f"row {row}: outside the range of model {model.name}/{model.version}: it has no probability"
    return RequestError.of("rows", what)
