"""The units of each kind, by schema.

Units of full/2 are scale-free apart from the level, which is the offset of the location: ratios of a window to a longer
window, and the errors of the reference forecast. So recordings of other products, venues and years can be pooled.
core/1 has a single window, of returns from tick to tick, and full/1 has six. On core/1 the scale depends on the level
too: in a quiet market few price changes make up the window, so it is noisier.
"""

from __future__ import annotations

from collections.abc import Mapping

from common.schema import CORE_1, FULL_1, FULL_2, FeatureSchema
from training.forecasting.form import LOG_BPS, Design, Unit

_GRID = "grid_volatility_"
# The single window of core/1 is a noisy measure of the level, so its weight is below 1. A fitted weight is lower and
# shrinks forecasts towards the volatility of the training rows (decision 32).
CORE_1_LEVEL_WEIGHT = 0.85


def constant(schema: FeatureSchema) -> Design:
    """A constant, without any feature."""
    return Design(schema, (Unit("constant", {}),))


def zscore(schema: FeatureSchema) -> Design:
    """The volatility of the last minute alone. The fitted weight and bias make its logarithm a z-score."""
    return Design(schema, (_level("volatility"),))


def ewma(schema: FeatureSchema) -> Design:
    return Design(schema, (_level("ewma_volatility"),))


def har(schema: FeatureSchema) -> Design:
    """Volatility over a minute, five minutes and an hour, or over the windows that the schema has instead.

    For the short windows that core/1 lacks stand absolute returns, which are noisier (L. Forsberg, E. Ghysels, "Why do
    absolute returns predict volatility so well?", Journal of Financial Econometrics 5, 2007).
    """
    if schema.name == CORE_1.name:
        return Design(schema, tuple(_level(name) for name in ("return_5s", "return_30s", "volatility")), signed=True)
    if schema.name == FULL_1.name:
        return Design(schema, tuple(_level(name) for name in ("volatility_15s", "volatility", "volatility_300s")))
    return Design(schema, tuple(_level(f"{_GRID}{window}s") for window in (60, 300, 3600)))


def ratios(schema: FeatureSchema) -> Design:
    """The level as offset, and scale-free units."""
    if schema.name == CORE_1.name:
        return Design(
            schema,
            (
                _level("volatility", CORE_1_LEVEL_WEIGHT),
                *(_ratio(f"return over {seconds} s", f"return_{seconds}s", "volatility") for seconds in (5, 30, 60)),
            ),
            offset="volatility",
            offset_in_scale=True,
            signed=True,
        )
    if schema.name == FULL_1.name:
        return Design(schema, _RATIOS_OF_FULL_1)
    return Design(schema, _RATIOS_OF_FULL_2, offset=f"{_GRID}1800s")


def _level(name: str, weight: float = 1.0) -> Unit:
    """The logarithm of a volatility in bps, times a weight."""
    return Unit(name, {name: weight}, bias=weight * LOG_BPS)


def _ratio(name: str, size: str, to: str) -> Unit:
    return Unit(name, {size: 1.0, to: -1.0})


_RATIOS_OF_FULL_1 = (
    _level("volatility_300s"),
    _ratio("two minutes", "volatility_120s", "volatility_300s"),
    _ratio("minute", "volatility", "volatility_300s"),
    _ratio("half a minute", "volatility_30s", "volatility"),
    _ratio("exponentially weighted", "ewma_volatility", "volatility"),
    _ratio("largest return", "max_abs_return", "volatility"),
)
_RATIOS_OF_FULL_2 = (
    _level(f"{_GRID}1800s"),
    _ratio("minute", f"{_GRID}60s", f"{_GRID}1800s"),
    _ratio("five minutes", f"{_GRID}300s", f"{_GRID}1800s"),
    _ratio("half a minute", f"{_GRID}30s", f"{_GRID}60s"),
    _ratio("half an hour", f"{_GRID}1800s", f"{_GRID}3600s"),
    _ratio("largest return", "grid_max_abs_return", f"{_GRID}60s"),
    _ratio("mean return", "grid_mean_abs_return", f"{_GRID}60s"),
    Unit("size of errors", {"reference_error_size": 1.0}),
)

# The trailing hour's volatility per minute, for spike sizes that are multiples of it; "" if the schema has none.
TRAILING_FEATURE: Mapping[str, str] = {FULL_2.name: f"{_GRID}3600s"}
