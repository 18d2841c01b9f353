"""Scores a single request of one row within its read: no queue, no array, no turn of the loop.

With one call in flight, most time is spent on code that is not in the CPU's caches: a batch of one took 74 us, and its
parts took 30 us in a loop. So this path is kept minimal. It scores requests that match a template, have one row and
finite values. Every other request takes the paths through the batcher (docs/decisions/0015).
"""

from __future__ import annotations

from math import inf, isfinite

from common.errors import RequestError
from server.core.dataplane import DataPlane, ModelRun
from server.core.forecast_query import BPS, ResolvedQuery
from server.core.predictor import BoundBuffers
from server.core.snapshot import Model, ModelSnapshot
from server.runtime.batch_loop import BatchLoop
from server.runtime.metrics import ServerMetrics
from server.wire.response import DOUBLE, after_values, before_values, forecast_fields, model_fields
from server.wire.templates import RequestTemplate, model_for

_FLOAT64 = 2  # volcast.v1.DataType
_MAX_BOUND_TEMPLATES = 64
# A call with a shorter timeout may already be late; only the batcher checks deadlines.
MIN_INLINE_TIMEOUT_NS = 1_000_000


class BoundTemplate:
    """State for requests of one template: model, buffers bound to its session, first bytes of a response."""

    __slots__ = ("before", "model", "query", "row")

    def __init__(self, model: Model, query: ResolvedQuery | None) -> None:
        """query: None if the model forecasts no distribution."""
        self.model = model
        self.query = query
        self.row: BoundBuffers = model.predictor.bind(1, len(query.levels) if query is not None else 0)
        self.before = before_values(model_fields(model), 1)
        if query is not None:
            self.row.sizes[:] = query.spike_bps
            self.row.levels[:] = query.levels

    def set_size(self, query: ResolvedQuery) -> bool:
        """Sets the spike size of the row; False if the row has no positive, finite size."""
        if not query.multiple:
            return True
        size = float(self.row.matrix[0, query.column]) * (query.multiple * BPS)
        self.row.sizes[0, 0] = size
        return 0 < size < inf

    def forecast(self, query: ResolvedQuery) -> bytes | None:
        """The fields of the forecast of the last run; None if a quantile is not finite."""
        row = self.row
        if not isfinite(sum((row.medians.item(), *row.quantiles[0].tolist()))):
            return None
        return forecast_fields(row.sizes.item(), row.medians.tobytes(), row.quantiles.tobytes(), query.base_rate)


class InlineScorer:
    """For the thread of the event loop only: every request reuses the buffers."""

    def __init__(self, plane: DataPlane, batches: BatchLoop, metrics: ServerMetrics) -> None:
        self._plane = plane
        self._now_ns = plane.now_ns
        self._observe = batches.batcher.observe
        self._metrics = metrics
        self._snapshot: ModelSnapshot | None = None  # contains the models of the bound templates
        self._bound: dict[bytes, BoundTemplate | None] = {}  # by the template's key; None: not eligible
        self._last: BoundTemplate | None = None
        self._compute_ns = 0

    def score(self, template: RequestTemplate, values: bytes, arrived_ns: int) -> bytes | None:
        """The PredictResponse to a request with these values; None if the batcher must score it."""
        bound = self._bound_for(template)
        if bound is None or not bound.row.fill(values):
            return None
        query = bound.query
        if query is not None and not bound.set_size(query):
            return None
        now_ns = self._now_ns
        began_ns = now_ns()
        try:
            bound.row.run()
        except Exception:  # the batcher repeats the run and reports the fault
            return None
        compute_ns = now_ns() - began_ns
        probability = bound.row.probability
        if not isfinite(probability):
            return None
        response = bound.before + DOUBLE.pack(probability) + after_values(began_ns - arrived_ns, compute_ns)
        if query is not None:
            forecast = bound.forecast(query)
            if forecast is None:
                return None
            response += forecast
        self._last, self._compute_ns = bound, compute_ns
        return response

    def observe(self, method: str, arrived_ns: int) -> None:
        """Counts the last response, after it was sent."""
        bound = self._last
        if bound is not None:
            self._metrics.request(method, "OK", self._now_ns() - arrived_ns)
            sizes = None if bound.query is None else bound.row.sizes
            self._observe(ModelRun(bound.model, bound.row.matrix, bound.row.output, self._compute_ns, sizes))

    def _bound_for(self, template: RequestTemplate) -> BoundTemplate | None:
        snapshot = self._plane.repository.snapshot
        if snapshot is not self._snapshot or len(self._bound) > _MAX_BOUND_TEMPLATES:
            self._bound.clear()  # otherwise buffers of replaced models stay in memory
            self._last = None
            self._snapshot = snapshot
        try:
            return self._bound[template.key]
        except KeyError:
            bound = self._bound[template.key] = self._bind(template)
            return bound

    def _bind(self, template: RequestTemplate) -> BoundTemplate | None:
        model = model_for(self._plane.repository, template)
        if model is None or template.rows != 1 or template.data_type != _FLOAT64:
            return None
        try:
            return BoundTemplate(model, model.resolve_query(template.query))
        except RequestError:
            return None
