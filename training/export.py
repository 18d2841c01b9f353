"""Exported models in ONNX Runtime, and the gate that each must pass: what it says is what the trained form says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from common.errors import TrainingError

PARITY_LIMIT = 1e-5


def session(model: bytes) -> Any:
    """The model in ONNX Runtime, on one thread as the server runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_probabilities(model: bytes, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """What ONNX Runtime says of (rows, features of the schema); shape (rows,)."""
    (probability,) = session(model).run(["probability"], {"features": np.ascontiguousarray(features)})
    return np.asarray(probability, dtype=np.float64).reshape(-1)


def check_parity(exported: NDArray[np.float64], trained: NDArray[np.float64]) -> float:
    """The largest difference over (rows,); raises TrainingError where it is above the limit or not a number."""
    difference = np.abs(exported - trained)
    error = float(np.max(difference))
    if not error <= PARITY_LIMIT:
        raise TrainingError(
            f"the ONNX form differs from the trained form by {error:.3g} on row {int(np.argmax(difference))} of "
            f"{len(trained)}; at most {PARITY_LIMIT} is allowed"
        )
    return error
