"""A bundle's graph in ONNX Runtime, on one thread as a server runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from common.errors import BundleError
from common.onnx_errors import onnx_reason

CHUNK_ROWS = 65_536


class OnnxModel:
    """Raises BundleError where ONNX Runtime does not take the model, or fails on rows."""

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # warnings of a graph are no news to whoever made it
        try:
            self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # whatever a broken graph makes ONNX Runtime raise
            raise BundleError(f"the model cannot be loaded: {onnx_reason(error)}") from None

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(spike) for (rows, features), shape (rows,)."""
        if len(features) <= CHUNK_ROWS:
            return self._run(np.ascontiguousarray(features))
        starts = range(0, len(features), CHUNK_ROWS)
        return np.concatenate([self._run(np.ascontiguousarray(features[at : at + CHUNK_ROWS])) for at in starts])

    def _run(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        try:
            (probabilities,) = self._session.run(["probability"], {"features": features})
        except Exception as error:
            raise BundleError(f"the model cannot be run on {len(features)} rows: {onnx_reason(error)}") from None
        return np.asarray(probabilities, dtype=np.float64).reshape(-1)
