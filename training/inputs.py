"""What the model sees of a core/1 row: logs of sizes without a scale of price.

Each input is log(|x| + offset). Logs turn ratios into differences, so that a linear model over them
holds "return over 5 s relative to the minute's volatility" without a division, and volatility is near
to normal in logs (Andersen, Bollerslev, Diebold and Labys 2003). Signs are dropped: a fall and a rise
say the same about how much comes next. The offset is what counts as nothing; it keeps a quiet market
finite. The whole transform is |x|, +, log, a matrix product and a sigmoid, so it goes into the ONNX
graph as it stands, in double precision.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from common.schema import CORE_1

# Feature -> offset, in the feature's unit. Absent features (price, midprice, spread_abs) are in units
# of the quote currency and would teach the model one week's price level.
OFFSETS = MappingProxyType(
    {
        "return_1s": 1e-5,  # a tenth of a basis point
        "return_5s": 1e-5,
        "return_30s": 1e-5,
        "return_60s": 1e-5,
        "volatility": 1e-6,
        "trade_intensity": 1 / 60,  # one update in the window
        "spread_rel": 1e-7,  # about one cent at 90,000
        "order_book_imbalance": 1.0,  # bounded by 1 already: log(1 + |x|) is nearly |x|
    }
)
COLUMNS = tuple(CORE_1.names.index(name) for name in OFFSETS)


def model_inputs(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows, 11) in core/1 order -> (rows, 8) in the order of OFFSETS. Finite wherever features are."""
    offsets = np.array(list(OFFSETS.values()), dtype=np.float64)
    inputs: NDArray[np.float64] = np.log(np.abs(features[:, COLUMNS]) + offsets)
    return inputs
