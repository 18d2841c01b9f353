"""An exported forecast in ONNX Runtime, on one thread as a server runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from common.errors import BundleError
from common.onnx_errors import onnx_reason
from common.onnx_run import BoundRun
from common.timing import best_call_us
from training.forecasting.distribution import Forecasts
from training.forecasting.graph import FEATURES, LEVELS, MEDIAN_BPS, PROBABILITY, QUANTILE_BPS, SPIKE_BPS
from training.problem.target import Floats

CHUNK_ROWS = 4_096  # of a run: with 101 levels the graph's hinges take 110 MB, twice
PARITY = 1e-6
OUTPUTS = (PROBABILITY, MEDIAN_BPS, QUANTILE_BPS)


class OnnxForecast:
    """Raises BundleError if ONNX Runtime refuses the model or fails on rows."""

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors only: the warnings are about known properties of the graph
        try:
            self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a broken graph makes ONNX Runtime raise many types
            raise BundleError(f"the model cannot be loaded: {onnx_reason(error)}") from None

    def run(self, features: Floats, spike_bps: Floats, levels: Floats) -> tuple[Floats, Floats, Floats]:
        """features (n, F), spike_bps (n,), levels (n, L) -> probability (n,), median (n,), quantiles (n, L), in bps."""
        if len(features) > CHUNK_ROWS:
            chunks = [slice(start, start + CHUNK_ROWS) for start in range(0, len(features), CHUNK_ROWS)]
            parts = zip(*(self.run(features[rows], spike_bps[rows], levels[rows]) for rows in chunks), strict=True)
            probability, median, quantiles = (np.concatenate(each) for each in parts)
            return probability, median, quantiles
        inputs = {FEATURES: features, SPIKE_BPS: spike_bps[:, None], LEVELS: levels}
        try:
            probability, median, quantiles = self._session.run(
                list(OUTPUTS), {name: np.ascontiguousarray(values, np.float64) for name, values in inputs.items()}
            )
        except Exception as error:
            raise BundleError(f"the model cannot be run on {len(features)} rows: {onnx_reason(error)}") from None
        return probability[:, 0], median[:, 0], quantiles

    def call_us(self, features: Floats, levels: int = 0) -> float:
        """CPU time of a call with these rows, a size for each row and this number of levels, in microseconds.

        Inputs and outputs are bound beforehand, so the time of copying arrays is not part of it.
        """
        rows = len(features)
        binding = self._session.io_binding()
        binding.bind_cpu_input(FEATURES, np.ascontiguousarray(features))
        binding.bind_cpu_input(SPIKE_BPS, np.full((rows, 1), 5.0))
        binding.bind_cpu_input(LEVELS, np.tile(np.arange(1, levels + 1) / (levels + 1), (rows, 1)))
        for name in OUTPUTS:
            binding.bind_output(name)
        run, options = self._session.run_with_iobinding, BoundRun()
        return best_call_us(lambda: run(binding, options))


def parity_error(
    model: OnnxForecast, trained: Callable[[Floats], Forecasts], features: Floats, sizes_bps: Floats, levels: Floats
) -> float:
    """The largest difference between the graph and the trained form over all rows (n, F), sizes (S,) and levels (L,).

    trained: features (n, F) -> forecasts. Probabilities: absolute. Volatilities: relative, since they span four orders
    of magnitude. NaN counts as infinite.
    """
    worst = 0.0
    for start in range(0, len(features), CHUNK_ROWS):
        part = features[start : start + CHUNK_ROWS]
        forecasts, no_levels = trained(part), np.zeros((len(part), 0))
        expected_median = forecasts.median_bps()
        for number, size in enumerate(sizes_bps.tolist()):
            requested = np.tile(levels, (len(part), 1)) if number == 0 else no_levels
            probability, median, quantiles = model.run(part, np.full(len(part), size), requested)
            differences = [probability - forecasts.exceedance(size), median / expected_median - 1]
            if number == 0:
                differences.append((quantiles / forecasts.quantiles_bps(levels) - 1).ravel())
            worst = max(
                worst, *(float(np.max(np.nan_to_num(np.abs(each), nan=np.inf), initial=0)) for each in differences)
            )
    return worst
