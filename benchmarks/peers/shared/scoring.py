"""What each peer's server shares: the model, and where it was told to listen.

Runs in the peers' own environments, not in ours: only numpy and ONNX Runtime are there.
"""

from __future__ import annotations

import os

import numpy as np
import onnxruntime
from numpy.typing import NDArray

HOST = "127.0.0.1"
FEATURES = 11


def port(which: str = "PEER_PORT") -> int:
    """The port of the measured door, or of another that the framework insists on opening."""
    return int(os.environ[which])


class Scorer:
    """Rows (n, 11) to probabilities (n,), the model in ONNX Runtime on the thread that asks."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        probabilities: NDArray[np.float64] = self._session.run(["probability"], {"features": rows})[0]
        return probabilities.reshape(-1)
