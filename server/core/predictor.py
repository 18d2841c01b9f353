"""A model in ONNX Runtime: a matrix in, probabilities out."""

from __future__ import annotations

import re
from math import isfinite, nan

import numpy as np
import onnxruntime

from common.errors import BundleError
from common.onnx_errors import onnx_reason
from server.core.arrays import Matrix, Vector

INPUT = "features"
OUTPUT = "probability"
MAX_BOUND_ROWS = 64
ONE_BITS = 0x3FF0_0000_0000_0000  # of the double 1.0
# Sums in float32 can leave [0, 1] by rounding, for instance the mean of many trees. Such values are cut to the range;
# any other value outside it is no probability.
ROUNDING = 1e-5
_FLOATS = {"tensor(double)", "tensor(float)"}
_NEWEST_OPSET = re.compile(r"official support for domain (\S+) is till opset (\d+)")


class Predictor:
    """Runs one ONNX graph on the calling thread; any number of threads may call `predict` at once.

    `InferenceSession.run` makes an array and an OrtValue for each input and output. For one row of logistic regression
    it takes 12 us in a loop, and 29 us in a server, where other code has replaced it in the caches. Buffers that are
    bound once take half of that. ONNX Runtime's private inner session would save 3 us more; its interface may change.
    """

    def __init__(self, model: bytes, width: int) -> None:
        """model: the graph's bytes. width: features per row. Raises BundleError if the graph cannot be served."""
        try:
            self._session = onnxruntime.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise BundleError(_refusal(error)) from None
        _check_graph(self._session, width)
        self._bound: dict[int, BoundBuffers] = {}  # by number of rows

    def predict(self, matrix: Matrix) -> Vector:
        """Probabilities (rows,) for a matrix (rows, width); NaN for a row without a probability in [0, 1]."""
        return in_range(self.raw(matrix))

    def raw(self, matrix: Matrix) -> Vector:
        """The graph's output (rows,), not checked; see `in_range`."""
        output = self._session.run([OUTPUT], {INPUT: matrix})[0]
        return np.asarray(output, np.float64).reshape(-1)

    def bind(self, rows: int) -> BoundBuffers:
        return BoundBuffers(self._session, rows)

    def raw_bound(self, matrix: Matrix) -> Vector:
        """As `raw`, a third faster for up to MAX_BOUND_ROWS rows. For one thread only."""
        rows = len(matrix)
        buffers = self._bound.get(rows)
        if buffers is None:
            buffers = self._bound[rows] = BoundBuffers(self._session, rows)
        buffers.matrix[:] = matrix
        buffers.run()
        return buffers.output.copy()


class BoundBuffers:
    """Input and output for a fixed number of rows, bound to the session once: half of the cost of `run` for one row.

    For one thread. Each run overwrites the values of the last.
    """

    def __init__(self, session: onnxruntime.InferenceSession, rows: int) -> None:
        (features,) = session.get_inputs()
        (probability,) = (output for output in session.get_outputs() if output.name == OUTPUT)
        self.matrix: Matrix = np.zeros((rows, features.shape[1]), np.float64)
        dtype = np.float32 if probability.type == "tensor(float)" else np.float64
        output = np.zeros((rows, *probability.shape[1:]), dtype)
        self._output = output.reshape(-1)
        self._flat = self.matrix.reshape(-1)
        self._bytes = self._flat.view(np.uint8).data
        self._session = session
        self._binding = session.io_binding()
        for bind, name, buffer in (
            (self._binding.bind_input, INPUT, self.matrix),
            (self._binding.bind_output, OUTPUT, output),
        ):
            bind(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)

    def fill(self, values: bytes) -> bool:
        """Copies the rows' float64 values. False if a value is not finite."""
        self._bytes[:] = values
        return isfinite(sum(self._flat.tolist())) or bool(np.isfinite(self._flat).all())

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

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


def _check_graph(session: onnxruntime.InferenceSession, width: int) -> None:
    inputs = {value.name: value for value in session.get_inputs()}
    if set(inputs) != {INPUT}:
        raise BundleError(f"inputs: expected only {INPUT}, got {', '.join(sorted(inputs)) or 'none'}")
    features = inputs[INPUT]
    shape = features.shape
    # A name or None is a free dimension; with a fixed number of rows the graph could not take batches.
    if features.type != "tensor(double)" or len(shape) != 2 or shape[1] != width or _fixed(shape[0]):
        raise BundleError(
            f"input {INPUT}: expected tensor(double) of shape (rows, {width}), got {features.type} of {shape}"
        )
    outputs = {value.name: value for value in session.get_outputs()}
    if OUTPUT not in outputs:
        raise BundleError(f"outputs: expected {OUTPUT}, got {', '.join(sorted(outputs)) or 'none'}")
    output = outputs[OUTPUT]
    if output.type not in _FLOATS or output.shape[1:] not in ([], [1]) or not output.shape or _fixed(output.shape[0]):
        expected = "a float or double tensor of shape (rows,) or (rows, 1)"
        raise BundleError(f"output {OUTPUT}: expected {expected}, got {output.type} of {output.shape}")


def _fixed(dimension: object) -> bool:
    return isinstance(dimension, int)


def _refusal(error: Exception) -> str:
    reason = onnx_reason(error)
    newest = _NEWEST_OPSET.search(reason)
    if newest:
        return f"opset: ONNX Runtime {onnxruntime.__version__} takes {newest[1]} up to {newest[2]}, model.onnx is newer"
    return f"ONNX Runtime cannot load it: {reason}"
