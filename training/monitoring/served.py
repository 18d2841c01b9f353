"""A bundle as the monitor scores it: probabilities of rows, and their distribution if the model forecasts one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.bundle import Manifest
from common.schema import FULL_2
from training.forecasting.bundle import baseline_forecasts
from training.forecasting.distribution import Forecasts
from training.forecasting.onnx_forecast import OnnxForecast
from training.judging.scores import covered, row_scores
from training.problem.forecast_rows import ForecastRows
from training.problem.target import BPS, Floats
from training.shipping.onnx_model import OnnxModel

SCHEMA = FULL_2  # of the features that joined rows carry: a superset of every served schema
DISTRIBUTION = ("crps", "qlike", "coverage_80", "coverage_95")


@dataclass(frozen=True, slots=True)
class GraphForecasts:
    """Forecasts of rows (n, features) by a bundle's graph."""

    graph: OnnxForecast
    features: Floats

    def quantiles_bps(self, levels: Floats) -> Floats:
        rows = len(self.features)
        return self.graph.run(self.features, np.ones(rows), np.tile(levels, (rows, 1)))[2]

    def exceedance(self, size_bps: float | Floats) -> Floats:
        rows = len(self.features)
        sizes = np.array(np.broadcast_to(np.asarray(size_bps, np.float64), rows))
        return self.graph.run(self.features, sizes, np.zeros((rows, 0)))[0]

    def median_bps(self) -> Floats:
        rows = len(self.features)
        return self.graph.run(self.features, np.ones(rows), np.zeros((rows, 0)))[1]


class Served:
    """Raises BundleError if ONNX Runtime refuses the graph."""

    def __init__(self, manifest: Manifest, graph: bytes) -> None:
        self.manifest = manifest
        self._graph = OnnxModel(graph) if manifest.forecast is None else OnnxForecast(graph)

    @property
    def default_bps(self) -> float:
        """The size of an old-style model, or the default size of a forecast."""
        forecast = self.manifest.forecast
        return self.manifest.label.threshold * BPS if forecast is None else forecast.spike_bps

    @property
    def floor_bps(self) -> float:
        return 0.0 if self.manifest.forecast is None else self.manifest.forecast.floor_bps

    def sizes_bps(self, requested: Floats) -> Floats:
        """The sizes (n,) that the model's probabilities refer to, for requested sizes (n,); 0: none is requested."""
        if self.manifest.forecast is None:
            return np.full(len(requested), self.default_bps)
        return np.where(requested > 0, requested, self.default_bps)

    def base_rates(self, sizes_bps: Floats) -> Floats:
        """Shares of the training rows at or above sizes (n,)."""
        forecast = self.manifest.forecast
        if forecast is None:
            return np.full(len(sizes_bps), 1 - self.manifest.label.quantile)
        distinct, place = np.unique(sizes_bps, return_inverse=True)  # predictions mostly have the same size
        return np.array([forecast.sizes.share_at(size) for size in distinct.tolist()])[place]

    def forecasts(self, features: Floats) -> Forecasts | None:
        """Forecasts of rows (n, features of the model's schema); None: the model gives probabilities only."""
        return GraphForecasts(self._graph, features) if isinstance(self._graph, OnnxForecast) else None

    def baselines(self, features: Floats) -> dict[str, Forecasts]:
        """Forecasts of rows (n, features of the model's schema) by every other kind that the manifest records."""
        forecast = self.manifest.forecast
        if forecast is None:
            return {}
        none = np.zeros(len(features), np.int64)
        outcomes = np.zeros(len(features))
        rows = ForecastRows(self.manifest.feature_schema(), none, features, outcomes, none, none, ("",), ("",))
        return {
            kind: baseline_forecasts(form, rows, forecast.floor_bps)
            for kind, form in forecast.baselines.items()
            if kind != self.manifest.kind
        }

    def probabilities(self, features: Floats, sizes_bps: Floats) -> Floats:
        """P(volatility >= size) for rows (n, features of the model's schema) and sizes (n,)."""
        if isinstance(self._graph, OnnxForecast):
            return GraphForecasts(self._graph, features).exceedance(sizes_bps)
        return self._graph.probabilities(features)


def distribution_scores(forecasts: Forecasts, outcome_bps: Floats, floor_bps: float) -> Floats:
    """DISTRIBUTION of each row, (n, 4). An outcome below the floor counts as the floor."""
    of = row_scores(forecasts, np.maximum(outcome_bps, floor_bps), floor_bps, levels=np.zeros(0))
    return np.column_stack([of.crps_log, of.qlike, *(covered(of.pit_low, of.pit_high, level) for level in (0.8, 0.95))])
