"""The query of a forecast: validated against the model, and resolved to the spike size of each row.

Every endpoint passes a `ForecastQuery` to the data plane, which resolves it here. Nothing else interprets the fields
spike_bps, spike_multiple and quantiles.
"""

from __future__ import annotations

from math import inf, isfinite

import msgspec
import numpy as np

from common.bundle import ManifestForecast
from common.config import MAX_LEVELS
from common.errors import FieldViolation, RequestError
from common.schema import FeatureSchema
from common.text import shown
from server.core.arrays import Matrix
from server.core.requests import ForecastQuery

BPS = 1e4  # basis points per unit of log return
SIZE, MULTIPLE, LEVELS = "spike_bps", "spike_multiple", "quantiles"


class ResolvedQuery(msgspec.Struct, frozen=True):
    """A valid query of a forecast model."""

    spike_bps: float  # the size of every row; 0 if `multiple` gives each row its own size
    base_rate: float  # share of the training rows at or above the size or the multiple, in [0, 1]
    levels: tuple[float, ...] = ()
    multiple: float = 0.0  # of the trailing hour's volatility; 0: not used
    column: int = -1  # of the feature with that volatility, in log return per sqrt(horizon)

    def sizes(self, matrix: Matrix) -> Matrix:
        """The spike sizes (rows, 1), in basis points, of a matrix (rows, features). See `require_sizes`."""
        if not self.multiple:
            return np.full((len(matrix), 1), self.spike_bps)
        with np.errstate(over="ignore", invalid="ignore"):  # infinity, or 0 x infinity: no size
            return np.asarray(matrix[:, self.column : self.column + 1] * (self.multiple * BPS))

    def has_sizes(self, matrix: Matrix) -> bool:
        """Whether every row has a positive, finite size."""
        if not self.multiple:
            return True
        sizes = self.sizes(matrix)
        return bool(((sizes > 0) & (sizes < inf)).all())

    def require_sizes(self, matrix: Matrix, schema: FeatureSchema) -> None:
        """Raises RequestError, which names the first row without a positive, finite size."""
        if self.has_sizes(matrix):
            return
        sizes = self.sizes(matrix)[:, 0]
        row = int(np.argmin((sizes > 0) & (sizes < inf)))
        feature = shown(schema.names[self.column])
        expected = f"expected a positive, finite spike size, {SIZE} = {MULTIPLE} x {feature} x {BPS:g}"
        value = f"{self.multiple:g} x {matrix[row, self.column]:g} x {BPS:g}"
        raise RequestError.of(MULTIPLE, f"row {row}: {expected}, got {value}")


def query_faults(query: ForecastQuery, forecast: ManifestForecast | None, model: str) -> list[FieldViolation]:
    """All faults of a query. forecast: of the model, or None; model: its name and version."""
    if forecast is None:
        fields = ((SIZE, query.spike_bps), (MULTIPLE, query.spike_multiple), (LEVELS, query.levels))
        what = f"model {shown(model)} forecasts no distribution and takes no such field"
        return [FieldViolation(field, what) for field, value in fields if value]
    faults = []
    for field, value in ((SIZE, query.spike_bps), (MULTIPLE, query.spike_multiple)):
        if not 0 <= value < inf:
            faults.append(FieldViolation(field, f"expected a positive, finite number or 0, got {value:g}"))
    if query.spike_bps and query.spike_multiple:
        faults.append(FieldViolation(SIZE, f"expected at most one of {SIZE} and {MULTIPLE}, got both"))
    if query.spike_multiple and forecast.multiples is None:
        what = f"model {shown(model)} takes no multiples: its schema has no volatility of the trailing hour"
        faults.append(FieldViolation(MULTIPLE, what))
    return faults + _level_faults(query.levels)


def resolve_query(query: ForecastQuery, forecast: ManifestForecast, schema: FeatureSchema, model: str) -> ResolvedQuery:
    """Raises RequestError with all faults of the query."""
    faults = query_faults(query, forecast, model)
    if faults:
        raise RequestError(faults)
    if query.spike_multiple and forecast.multiples is not None:
        column = schema.names.index(forecast.trailing_feature)
        share = forecast.multiples.share_at(query.spike_multiple)
        return ResolvedQuery(0.0, share, query.levels, query.spike_multiple, column)
    size = query.spike_bps or forecast.spike_bps
    return ResolvedQuery(size, forecast.sizes.share_at(size), query.levels)


def _level_faults(levels: tuple[float, ...]) -> list[FieldViolation]:
    if len(levels) > MAX_LEVELS:
        return [FieldViolation(LEVELS, f"expected at most {MAX_LEVELS} levels, got {len(levels)}")]
    faults = []
    previous = 0.0
    for index, level in enumerate(levels):
        field = f"{LEVELS}[{index}]"
        if not 0 < level < 1:
            faults.append(FieldViolation(field, f"expected a level in (0, 1), got {level:g}"))
        elif level <= previous:
            faults.append(FieldViolation(field, f"expected ascending levels, got {level:g} after {previous:g}"))
        previous = level if isfinite(level) else previous
    return faults
