"""The array types of the core."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]  # (rows, features of the schema), finite
Vector = NDArray[np.float64]  # (rows,)
