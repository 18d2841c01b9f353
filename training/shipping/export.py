"""The gate that each export must pass: what it says is what the trained form says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import TrainingError

PARITY_LIMIT = 1e-5


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
