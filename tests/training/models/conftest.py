from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from common.schema import FULL_1
from training.problem.rows import Rows
from training.problem.ticks import NS_PER_S


def made_up_rows(count: int, seed: int) -> Rows:
    """Rows of full/1 whose volatilities move together, and a future that follows them and the intensity."""
    random = np.random.default_rng(seed)
    level = np.exp(random.normal(size=count))
    features = np.empty((count, len(FULL_1)))
    for column, feature in enumerate(FULL_1.features):
        if feature.unit == "quote":
            features[:, column] = 90_000 + random.normal(size=count)
        elif feature.unit == "log":
            features[:, column] = 1e-4 * level * random.lognormal(sigma=0.3, size=count)
        elif feature.name.endswith(("_sin", "_cos")) or "imbalance" in feature.name:
            features[:, column] = random.uniform(-1, 1, size=count)
        else:
            features[:, column] = random.lognormal(size=count)
    intensity = features[:, FULL_1.names.index("trade_intensity")]
    future = 1e-4 * level * np.sqrt(intensity) * random.lognormal(sigma=0.5, size=count)
    time_ns = np.arange(count) * NS_PER_S
    return Rows(FULL_1, time_ns, np.zeros(count, np.int64), features, future)


@pytest.fixture(scope="package")
def rows() -> Rows:
    return made_up_rows(3000, seed=0)


@pytest.fixture(scope="package")
def y(rows: Rows) -> NDArray[np.int8]:
    return (rows.future_volatility >= np.quantile(rows.future_volatility, 0.9)).astype(np.int8)
