"""A model in ONNX Runtime: a matrix in, probabilities out."""

from __future__ import annotations

import re
from math import isfinite

import numpy as np
import onnxruntime

from common.errors import BundleError
from server.core.arrays import Matrix, Vector

INPUT = "features"
OUTPUT = "probability"
MAX_BOUND_ROWS = 64
_FLOATS = {"tensor(double)", "tensor(float)"}
_NEWEST_OPSET = re.compile(r"official support for domain (\S+) is till opset (\d+)")


class Predictor:
    """Runs one ONNX graph on the calling thread; any number of threads may call `predict` at once.

    `InferenceSession.run` makes an array and an OrtValue on either side: 12 us for one row of logistic regression
    in a loop, 29 us in a server whose caches other code has had; buffers bound once take half of that. Its private
    inner session would save 3 us more: too little for an interface that may go.
    """

    def __init__(self, model: bytes, width: int) -> None:
        """model: the graph's bytes. width: features a row. Raises BundleError where the graph does not fit."""
        try:
            self._session = onnxruntime.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise BundleError(_refusal(_one_line(error))) from None
        _check_graph(self._session, width)
        self._bound: dict[int, BoundBuffers] = {}  # by rows

    def predict(self, matrix: Matrix) -> Vector:
        """Probabilities (rows,) for a matrix (rows, width)."""
        answer = self._session.run([OUTPUT], {INPUT: matrix})[0]
        return np.asarray(answer, np.float64).reshape(-1)

    def bind(self, rows: int) -> BoundBuffers:
        return BoundBuffers(self._session, rows)

    def predict_bound(self, matrix: Matrix) -> Vector:
        """As `predict`, a third faster for up to MAX_BOUND_ROWS rows, on one and the same thread only."""
        rows = len(matrix)
        bound = self._bound.get(rows)
        if bound is None:
            bound = self._bound[rows] = BoundBuffers(self._session, rows)
        bound.matrix[:] = matrix
        bound.run()
        return bound.probabilities.copy()


class BoundBuffers:
    """A number of rows in buffers that the session is bound to once: half of what `run` costs for one row.

    For one thread. What it gives is overwritten by the next run.
    """

    def __init__(self, session: onnxruntime.InferenceSession, rows: int) -> None:
        (given,) = session.get_inputs()
        (answer,) = (one for one in session.get_outputs() if one.name == OUTPUT)
        self.matrix: Matrix = np.zeros((rows, given.shape[1]), np.float64)
        dtype = np.float32 if answer.type == "tensor(float)" else np.float64
        output = np.zeros((rows, *answer.shape[1:]), dtype)
        self._probabilities = output.reshape(-1)
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
        """Of the one row there is."""
        return float(self._probabilities.item())

    @property
    def probabilities(self) -> Vector:
        return self._probabilities.astype(np.float64, copy=False)


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # One thread a call: ONNX Runtime's tree kernel goes parallel at 80 trees, and a pool that spins
    # takes the core that the next request needs. Scale by processes instead.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Not guessed from the bytes: its own format would pass by what is checked of an ONNX file.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.log_severity_level = 4  # errors come as exceptions; its own lines on stderr are no JSON
    return options


def _check_graph(session: onnxruntime.InferenceSession, width: int) -> None:
    inputs = {one.name: one for one in session.get_inputs()}
    if set(inputs) != {INPUT}:
        raise BundleError(f"inputs: expected only {INPUT}, got {', '.join(sorted(inputs)) or 'none'}")
    taken = inputs[INPUT]
    # A fixed number of rows could not take a batch; a name or None is a free dimension.
    if taken.type != "tensor(double)" or len(taken.shape) != 2 or taken.shape[1] != width or _fixed(taken.shape[0]):
        raise BundleError(
            f"input {INPUT}: expected tensor(double) of shape (rows, {width}), got {taken.type} of {taken.shape}"
        )
    outputs = {one.name: one for one in session.get_outputs()}
    if OUTPUT not in outputs:
        raise BundleError(f"outputs: expected {OUTPUT}, got {', '.join(sorted(outputs)) or 'none'}")
    given = outputs[OUTPUT]
    if given.type not in _FLOATS or given.shape[1:] not in ([], [1]) or not given.shape or _fixed(given.shape[0]):
        expected = "a float or double tensor of shape (rows,) or (rows, 1)"
        raise BundleError(f"output {OUTPUT}: expected {expected}, got {given.type} of {given.shape}")


def _fixed(dimension: object) -> bool:
    return isinstance(dimension, int)


def _refusal(reason: str) -> str:
    newest = _NEWEST_OPSET.search(reason)
    if newest:
        return f"opset: ONNX Runtime {onnxruntime.__version__} takes {newest[1]} up to {newest[2]}, model.onnx is newer"
    return f"ONNX Runtime cannot load it: {reason[:300]}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
