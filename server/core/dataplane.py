"""From a request to its answer: resolves the model, validates the rows, runs the model. Every endpoint calls this.

`prepare` and `compute` are separate steps, so that the batcher between them (server.core.batcher) gets validated jobs
only: an invalid request fails by itself, before it enters a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from common.errors import RequestError, SchemaMismatchError, VolcastError
from server.core.arrays import Matrix, Vector
from server.core.forecast_query import ResolvedQuery
from server.core.models import Repository
from server.core.predictor import MAX_BOUND_ROWS, Forecasts, all_in_range, in_range
from server.core.requests import PredictInput
from server.core.rows import all_finite, fitting
from server.core.snapshot import Model


class ForecastResult(msgspec.Struct, frozen=True):
    """The fields that a forecast model adds to the probabilities."""

    spike_bps: float  # size that the probabilities refer to; 0 if the rows have different sizes
    base_rate: float  # share of the training rows at or above the size, in [0, 1]
    median_bps: Vector  # (rows,)
    quantile_bps: Matrix  # (rows, levels)
    sizes_bps: Vector  # (rows,), the size of each row


class Result(msgspec.Struct, frozen=True):
    """The answer to one request."""

    model: Model
    probabilities: Vector
    queue_ns: int
    compute_ns: int
    forecast: ForecastResult | None = None  # None: the model forecasts no distribution

    def part(self, rows: slice) -> Result:
        """The answer for some of the rows."""
        forecast = self.forecast
        if forecast is not None:
            forecast = ForecastResult(
                forecast.spike_bps,
                forecast.base_rate,
                forecast.median_bps[rows],
                forecast.quantile_bps[rows],
                forecast.sizes_bps[rows],
            )
        return Result(self.model, self.probabilities[rows], self.queue_ns, self.compute_ns, forecast)


Outcome = Result | VolcastError


class ScoringJob(msgspec.Struct, frozen=True):
    """A validated request: a model, and rows that fit it."""

    model: Model
    matrix: Matrix
    arrived_ns: int  # on the data plane's clock
    query: ResolvedQuery | None = None  # None: the model forecasts no distribution

    @property
    def levels(self) -> tuple[float, ...]:
        return () if self.query is None else self.query.levels

    def shares_run(self, other: ScoringJob) -> bool:
        """Whether one run scores both: each row has its own size and levels, but all have equally many levels."""
        same_query = self.query is other.query or len(self.levels) == len(other.levels)
        return self.model is other.model and same_query


class ModelRun(msgspec.Struct, frozen=True):
    """One run of a model. Observers (metrics, shadows) receive it after the answers are sent."""

    model: Model
    matrix: Matrix
    probabilities: Vector
    compute_ns: int
    sizes: Matrix | None = None  # (rows, 1), spike sizes in bps; None: the model forecasts no distribution


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
        query, query_error = None, None
        try:
            query = model.resolve_query(request.query)
        except RequestError as error:
            query_error = error
        try:
            if request.rows is None:
                raise RequestError.of("rows", "expected `named` or `packed` rows, got none")
            matrix = request.rows.to_matrix(model.schema, self.max_rows)
        except SchemaMismatchError:
            raise
        except RequestError as error:
            if query_error is None:
                raise
            raise RequestError(fitting([*query_error.violations, *error.violations], "request")) from None
        if query_error is not None:
            raise query_error
        if query is not None:
            query.require_sizes(matrix, model.schema)
        return ScoringJob(model, matrix, arrived_ns, query)

    def compute(self, jobs: Sequence[ScoringJob]) -> Computed:
        """The outcome of each job. The jobs of one model with the same number of levels are scored in one run.

        The outcome is a RequestError if the model has no probability for a row, although its values are finite.
        """
        if len(jobs) == 1 or all(job.shares_run(jobs[0]) for job in jobs):
            outcomes, run = self._run(jobs)
            return Computed(outcomes, [run])
        by_run: dict[tuple[int, int], list[int]] = {}
        for index, job in enumerate(jobs):
            by_run.setdefault((id(job.model), len(job.levels)), []).append(index)
        by_index: dict[int, Outcome] = {}
        runs = []
        for indices in by_run.values():
            outcomes, run = self._run([jobs[index] for index in indices])
            by_index.update(zip(indices, outcomes, strict=True))
            runs.append(run)
        return Computed([by_index[index] for index in range(len(jobs))], runs)

    def _run(self, jobs: Sequence[ScoringJob]) -> tuple[list[Outcome], ModelRun]:
        """Jobs of one model with the same number of levels."""
        model = jobs[0].model
        matrix = jobs[0].matrix if len(jobs) == 1 else np.concatenate([job.matrix for job in jobs])
        started_ns = self.now_ns()
        # Bound buffers are for one thread: server.core.batcher computes so few rows on the event loop's thread only.
        bound = len(matrix) <= MAX_BOUND_ROWS
        forecasts, sizes = None, None
        if model.forecast is None:
            probabilities = (model.predictor.raw_bound if bound else model.predictor.raw)(matrix)
        else:
            sizes, levels = _sizes_and_levels(jobs)
            run = model.predictor.forecast_bound if bound else model.predictor.forecast
            forecasts = run(matrix, sizes, levels).in_range()
            probabilities = forecasts.probabilities
        compute_ns = self.now_ns() - started_ns
        valid, begin = all_in_range(probabilities), 0
        if not valid:
            probabilities = in_range(probabilities)
        outcomes: list[Outcome] = []
        for job in jobs:
            end = begin + len(job.matrix)
            own = probabilities[begin:end]
            if valid or all_finite(own):
                forecast = None if forecasts is None or sizes is None else _part(job, forecasts, sizes, begin)
                outcomes.append(Result(model, own, started_ns - job.arrived_ns, compute_ns, forecast))
            else:
                outcomes.append(_out_of_range(model, own))
            begin = end
        return outcomes, ModelRun(model, matrix, probabilities, compute_ns, sizes)


def _sizes_and_levels(jobs: Sequence[ScoringJob]) -> tuple[Matrix, Matrix]:
    """The spike sizes (rows, 1) and the levels (rows, levels) of all rows. Every job has a query."""
    queries = [(job, job.query) for job in jobs if job.query is not None]
    sizes = [query.sizes(job.matrix) for job, query in queries]
    levels = [np.tile(np.array(query.levels, np.float64), (len(job.matrix), 1)) for job, query in queries]
    return (sizes[0], levels[0]) if len(jobs) == 1 else (np.concatenate(sizes), np.concatenate(levels))


def _part(job: ScoringJob, forecasts: Forecasts, sizes: Matrix, begin: int) -> ForecastResult | None:
    """The forecast of a job. begin: its first row in the run. None if the model forecasts no distribution."""
    if job.query is None:
        return None
    rows = slice(begin, begin + len(job.matrix))
    size, own = job.query.spike_bps, sizes[rows, 0]
    if job.query.multiple:
        size = float(own[0]) if (own == own[0]).all() else 0.0
    base_rate = job.query.base_rate
    return ForecastResult(size, base_rate, forecasts.median_bps[rows], forecasts.quantile_bps[rows], own)


def _out_of_range(model: Model, probabilities: Vector) -> RequestError:
    row = int(np.argmin(np.isfinite(probabilities)))
    what = f"row {row}: outside the range of model {model.name}/{model.version}: it has no probability"
    return RequestError.of("rows", what)
