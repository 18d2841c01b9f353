"""A model in ONNX Runtime: a matrix in; probabilities, and the quantiles of a forecast model, out."""

from __future__ import annotations

import re
from math import isfinite, nan

import msgspec
import numpy as np
import onnxruntime

from common.errors import BundleError
from common.onnx_errors import onnx_reason
from common.onnx_run import BoundRun
from server.core.arrays import Matrix, Vector
from server.core.graph_signature import INPUT, LEVELS, MEDIAN, OUTPUT, QUANTILES, SIZES, check_graph
from server.core.rows import all_finite

MAX_BOUND_ROWS = 64
ONE_BITS = 0x3FF0_0000_0000_0000  # of the double 1.0
# Sums in float32 can leave [0, 1] by rounding, for instance the mean of many trees. Such values are cut to the range;
# any other value outside it is no probability.
ROUNDING = 1e-5
_NEWEST_OPSET = re.compile(r"official support for domain (\S+) is till opset (\d+)")


class Forecasts(msgspec.Struct, frozen=True):
    """The forecast of each row."""

    probabilities: Vector  # (rows,), of a volatility at or above the row's spike size
    median_bps: Vector  # (rows,)
    quantile_bps: Matrix  # (rows, levels)

    def in_range(self) -> Forecasts:
        """NaN instead of the probability of each row without a probability in [0, 1] or with an infinite quantile."""
        probabilities = in_range(self.probabilities)
        if not (all_finite(self.median_bps) and all_finite(self.quantile_bps.reshape(-1))):
            finite = np.isfinite(self.median_bps) & np.isfinite(self.quantile_bps).all(axis=1)
            probabilities = np.where(finite, probabilities, nan)
        return Forecasts(probabilities, self.median_bps, self.quantile_bps)


class Predictor:
    """Runs one ONNX graph on the calling thread; any number of threads may call `predict` at once.

    `InferenceSession.run` makes an array and an OrtValue for each input and output. For one row of logistic regression
    it takes 12 us in a loop, and 29 us in a server, where other code has replaced it in the caches. Buffers and options
    that are made once take half of that. ONNX Runtime's private inner session would save 0.6 us more; its interface may
    change.
    """

    def __init__(self, model: bytes, width: int, spike_bps: float = 0.0) -> None:
        """model: the graph's bytes. width: features per row.

        spike_bps: the default spike size of a forecast model; 0: the model gives a probability only. Raises BundleError
        if the graph cannot be served, or is of the other kind.
        """
        try:
            self._session = onnxruntime.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise BundleError(_refusal(error)) from None
        check_graph(self._session, width, forecasts=spike_bps > 0)
        self._spike_bps = spike_bps
        self._bound: dict[tuple[int, int], BoundBuffers] = {}  # by number of rows and of levels

    def predict(self, matrix: Matrix) -> Vector:
        """Probabilities (rows,) for a matrix (rows, width); NaN for a row without a probability in [0, 1].

        A forecast model gives the probability of its default spike size.
        """
        return in_range(self.raw(matrix))

    def raw(self, matrix: Matrix) -> Vector:
        """The graph's probabilities (rows,), not checked; see `in_range`."""
        if self._spike_bps:
            rows = len(matrix)
            return self.forecast(matrix, np.full((rows, 1), self._spike_bps), np.empty((rows, 0))).probabilities
        output = self._session.run([OUTPUT], {INPUT: matrix})[0]
        return np.asarray(output, np.float64).reshape(-1)

    def forecast(self, matrix: Matrix, sizes: Matrix, levels: Matrix) -> Forecasts:
        """The graph's outputs, not checked; see `Forecasts.in_range`. For a forecast model only.

        matrix: (rows, width). sizes: spike sizes (rows, 1), in bps, positive. levels: (rows, levels), in (0, 1).
        """
        inputs = {INPUT: matrix, SIZES: sizes, LEVELS: levels}
        probability, median, quantiles = self._session.run([OUTPUT, MEDIAN, QUANTILES], inputs)
        return Forecasts(probability.reshape(-1), median.reshape(-1), quantiles)

    def bind(self, rows: int, levels: int = 0) -> BoundBuffers:
        """levels: quantiles per row, of a forecast model."""
        return BoundBuffers(self._session, rows, levels, self._spike_bps)

    def raw_bound(self, matrix: Matrix) -> Vector:
        """As `raw`, a third faster for up to MAX_BOUND_ROWS rows. For one thread only."""
        buffers = self._buffers(len(matrix), 0)
        buffers.matrix[:] = matrix
        buffers.run()
        return buffers.output.copy()

    def forecast_bound(self, matrix: Matrix, sizes: Matrix, levels: Matrix) -> Forecasts:
        """As `forecast`; see `raw_bound`."""
        buffers = self._buffers(*levels.shape)
        buffers.matrix[:] = matrix
        buffers.sizes[:] = sizes
        buffers.levels[:] = levels
        buffers.run()
        return Forecasts(buffers.output.copy(), buffers.medians[:, 0].copy(), buffers.quantiles.copy())

    def _buffers(self, rows: int, levels: int) -> BoundBuffers:
        buffers = self._bound.get((rows, levels))
        if buffers is None:
            buffers = self._bound[rows, levels] = self.bind(rows, levels)
        return buffers


class BoundBuffers:
    """Input and output for a fixed number of rows, bound to the session once: half of the cost of `run` for one row.

    For one thread. Each run overwrites the values of the last. Only a forecast model reads `sizes` (rows, 1) and
    `levels` (rows, levels), and writes `medians` (rows, 1) and `quantiles` (rows, levels).
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, rows: int, levels: int = 0, spike_bps: float = 0.0
    ) -> None:
        """spike_bps: the size of all rows until `sizes` is written; 0: not a forecast model."""
        (features,) = (taken for taken in session.get_inputs() if taken.name == INPUT)
        (probability,) = (output for output in session.get_outputs() if output.name == OUTPUT)
        self.matrix: Matrix = np.zeros((rows, features.shape[1]), np.float64)
        dtype = np.float32 if probability.type == "tensor(float)" else np.float64
        output = np.zeros((rows, *probability.shape[1:]), dtype)
        self._output = output.reshape(-1)
        self._flat = self.matrix.reshape(-1)
        self._bytes = self._flat.view(np.uint8).data
        self._session = session
        self._binding = session.io_binding()
        self._options = BoundRun()
        self.sizes: Matrix = np.full((rows, 1), spike_bps)
        self.levels: Matrix = np.full((rows, levels), 0.5)
        self.medians: Matrix = np.zeros((rows, 1))
        self.quantiles: Matrix = np.zeros((rows, levels))
        bind_input, bind_output = self._binding.bind_input, self._binding.bind_output
        bound = [(bind_input, INPUT, self.matrix), (bind_output, OUTPUT, output)]
        if spike_bps:
            bound += [(bind_input, SIZES, self.sizes), (bind_input, LEVELS, self.levels)]
            bound += [(bind_output, MEDIAN, self.medians), (bind_output, QUANTILES, self.quantiles)]
        for bind, name, buffer in bound:
            bind(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)

    def fill(self, values: bytes) -> bool:
        """Copies the rows' float64 values. False if a value is not finite."""
        self._bytes[:] = values
        return isfinite(sum(self._flat.tolist())) or bool(np.isfinite(self._flat).all())

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)

    @property
    def probability(self) -> float:
        """Of the only row; NaN if the row has no probability in [0, 1]."""
        value = float(self._output.item())
        if not 0.0 <= value <= 1.0:
            value = self._output[0] = _cut(value)
        return value

    @property
    def output(self) -> Vector:
        """As `Predictor.raw`. It holds what `probability` returned, if that was read."""
        return self._output.astype(np.float64, copy=False)


def all_in_range(values: Vector) -> bool:
    """Whether all values are probabilities.

    As unsigned numbers, the bits of a double in [0, 1] are at most those of 1.0; those of NaN, infinity and negative
    numbers are larger (IEEE 754, binary64). So one reduction tests all.
    """
    return not values.size or bool(values.view(np.uint64).max() <= ONE_BITS)


def in_range(values: Vector) -> Vector:
    """`values` (rows,) if all lie in [0, 1]; else a copy, with NaN for each value that is no probability."""
    if all_in_range(values):
        return values
    near = np.abs(values - 0.5) <= 0.5 + ROUNDING
    return np.where(near, np.clip(values, 0.0, 1.0), nan)


def _cut(value: float) -> float:
    return min(max(value, 0.0), 1.0) if abs(value - 0.5) <= 0.5 + ROUNDING else nan


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # One thread per call: ONNX Runtime's tree kernel uses several threads from 80 trees on, and a pool that spins
    # takes the core that the next request needs. Scale by processes instead.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Fix the format to ONNX. Otherwise ONNX Runtime would also accept its ORT format, which our ONNX checks do not
    # cover.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.log_severity_level = 4  # errors come as exceptions; ONNX Runtime's lines on stderr are no JSON
    return options


def _refusal(error: Exception) -> str:
    reason = onnx_reason(error)
    newest = _NEWEST_OPSET.search(reason)
    if newest:
        return f"opset: ONNX Runtime {onnxruntime.__version__} takes {newest[1]} up to {newest[2]}, model.onnx is newer"
    return f"ONNX Runtime cannot load it: {reason}"
