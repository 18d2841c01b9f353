"""Rows of a market whose log volatility is known: a level, a deviation of the last minute, noise of a known scale."""

import numpy as np

from common.schema import FULL_2, FeatureSchema
from training.problem.forecast_rows import ForecastRows
from training.problem.target import NS_PER_S


def sample_rows(rows: int = 6000, schema: FeatureSchema = FULL_2, seed: int = 0, level: float = 1.5) -> ForecastRows:
    """Log volatility is level + 0.5 * (minute - level) + noise. The noise doubles with the size of past errors."""
    random = np.random.default_rng(seed)
    base = level + 0.5 * random.normal(size=rows)
    minute = base + 0.6 * random.normal(size=rows)
    error = np.exp(random.uniform(np.log(0.2), np.log(0.8), rows))
    outcome = base + 0.5 * (minute - base) + error * random.laplace(size=rows)
    features = np.exp(random.normal(scale=0.2, size=(rows, len(schema))))

    def put(name: str, log_bps: np.ndarray) -> None:
        if name in schema.names:
            features[:, schema.names.index(name)] = np.exp(log_bps) * 1e-4

    for name, offset in (("30s", 0.0), ("60s", 0.0)):
        put(f"grid_volatility_{name}", minute + offset + 0.1 * random.normal(size=rows))
    for name in ("300s", "1800s", "3600s"):
        put(f"grid_volatility_{name}", base + 0.1 * random.normal(size=rows))
    for name in ("grid_max_abs_return", "grid_mean_abs_return", "volatility", "ewma_volatility"):
        put(name, minute - 1)
    for name in (name for name in schema.names if name.startswith("return_")):
        put(name, minute - 1)
        features[:, schema.names.index(name)] *= np.sign(random.normal(size=rows))
    put("reference_error_size", np.log(error) + np.log(1e4))
    return ForecastRows(
        schema=schema,
        time_ns=(1_700_000_000 + 5 * np.arange(rows)) * NS_PER_S,
        features=features,
        outcome_bps=np.maximum(np.exp(outcome), 0.05),
        product=np.zeros(rows, np.int64),
        recording=np.zeros(rows, np.int64),
        products=("BTC-USD",),
        recordings=("sample",),
        counts={"rows": rows},
    )
