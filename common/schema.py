"""Feature schemas: names, order and units of the features in a row.

A schema is the contract between the producer and the reader of rows. Packed rows, feature records and model
bundles carry its hash, and each reader compares it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

HASH_HEX_DIGITS = 12  # 48 bits: short enough to read aloud, and enough to distinguish a few schemas


@dataclass(frozen=True, slots=True)
class Feature:
    """A column: name, unit ("1" for a ratio) and meaning."""

    name: str
    unit: str
    description: str


@dataclass(frozen=True)
class FeatureSchema:
    """An ordered set of features under a name such as "core/1"."""

    name: str
    features: tuple[Feature, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @cached_property
    def hash(self) -> str:
        """Short hash of names, order and units. It does not depend on descriptions."""
        columns = [[feature.name, feature.unit] for feature in self.features]
        canonical = json.dumps(columns, separators=(",", ":")).encode()
        return hashlib.sha256(canonical).hexdigest()[:HASH_HEX_DIGITS]

    def __len__(self) -> int:
        return len(self.features)


CORE_1 = FeatureSchema(
    "core/1",
    (
        Feature("price", "quote", "last trade price of the ticker"),
        Feature("midprice", "quote", "(best bid + best ask) / 2"),
        Feature("return_1s", "log", "log of mid over mid as of t - 1 s"),
        Feature("return_5s", "log", "log of mid over mid as of t - 5 s"),
        Feature("return_30s", "log", "log of mid over mid as of t - 30 s"),
        Feature("return_60s", "log", "log of mid over mid as of t - 60 s"),
        Feature(
            "volatility",
            "log",
            "realized volatility: square root of the sum of squared tick-to-tick log-mid returns over 60 s",
        ),
        Feature("trade_intensity", "1/s", "ticker updates per second over 60 s"),
        Feature("spread_abs", "quote", "best ask - best bid"),
        Feature("spread_rel", "1", "spread over mid"),
        Feature(
            "order_book_imbalance",
            "1",
            "(bid quantity - ask quantity) / (bid quantity + ask quantity) at the top of the book",
        ),
    ),
)

# Warm after 300 s. The first columns are those of core/1, so each row of full/1 contains a row of core/1.
FULL_1 = FeatureSchema(
    "full/1",
    (
        *CORE_1.features,
        Feature("volatility_5s", "log", "realized volatility over 5 s"),
        Feature("volatility_15s", "log", "realized volatility over 15 s"),
        Feature("volatility_30s", "log", "realized volatility over 30 s"),
        Feature("volatility_120s", "log", "realized volatility over 120 s"),
        Feature("volatility_300s", "log", "realized volatility over 300 s"),
        Feature(
            "ewma_volatility",
            "log",
            "square root of the sum of squared tick-to-tick log-mid returns, each weighted by 0.94 for each whole "
            "second of its age, over 300 s",
        ),
        Feature(
            "bipower_volatility",
            "log",
            "square root of pi / 2 times the sum of products of absolute neighbouring tick-to-tick log-mid returns "
            "over 60 s",
        ),
        Feature("max_abs_return", "log", "largest absolute tick-to-tick log-mid return over 60 s"),
        Feature(
            "order_flow_imbalance",
            "1",
            "order flow at the top of the book over 60 s, bids minus asks, over the sum of its absolute values",
        ),
        Feature("quote_intensity_5s", "1/s", "ticker updates per second over 5 s"),
        Feature("intensity_ratio", "1", "ticker updates per second over 5 s to those over 60 s"),
        Feature("mean_spread_rel", "1", "mean of spread_rel over the updates of 60 s"),
        Feature("mean_imbalance", "1", "mean of order_book_imbalance over the updates of 60 s"),
        Feature("mid_age_s", "s", "time since the mid last changed, at most 300"),
        Feature("time_of_day_sin", "1", "sine of the time of day in UTC, with a period of a day"),
        Feature("time_of_day_cos", "1", "cosine of the time of day in UTC, with a period of a day"),
    ),
)

TRAILING_KNOWN = "trailing_known_s"  # in schemas with features of the trailing hour
TRAILING_S = 3600.0
_GRID = "per minute, of mids every 5 s"
_REFERENCE = "of a fixed forecast's error, the log of the next minute's volatility over it, over the trailing hour"

# Warm as early as full/1, whose columns come first. Where less than an hour is known since the last gap, the trailing
# windows are shrunk towards a prior (pipeline/features/trailing.py).
FULL_2 = FeatureSchema(
    "full/2",
    (
        *FULL_1.features,
        Feature("grid_volatility_30s", "log", f"realized volatility {_GRID}, over 30 s"),
        Feature("grid_volatility_60s", "log", f"realized volatility {_GRID}, over 60 s"),
        Feature("grid_volatility_300s", "log", f"realized volatility {_GRID}, over 300 s"),
        Feature("grid_volatility_1800s", "log", f"realized volatility {_GRID}, over 1,800 s"),
        Feature("grid_volatility_3600s", "log", f"realized volatility {_GRID}, over 3,600 s"),
        Feature("grid_max_abs_return", "log", "largest absolute log return between mids every 5 s, over 60 s"),
        Feature("grid_mean_abs_return", "log", "mean absolute log return between mids every 5 s, over 60 s"),
        Feature("reference_error_mean", "1", f"mean {_REFERENCE}"),
        Feature("reference_error_size", "1", f"mean absolute value {_REFERENCE}"),
        Feature("still_share", "1", "share of the minutes of the trailing hour with a volatility below 0.1 bps"),
        Feature(TRAILING_KNOWN, "s", "how much of the trailing hour is known, at most 3,600"),
    ),
)

# The schemas that the feature engine computes, and therefore those that served models take.
SCHEMAS = {schema.name: schema for schema in (CORE_1, FULL_1, FULL_2)}

# A row of a calm market, for documentation and first calls. Its values are consistent with a bid of 65000.00
# and an ask of 65000.01.
CORE_1_EXAMPLE = {
    "price": 65000.01,
    "midprice": 65000.005,
    "return_1s": 0.000012,
    "return_5s": 0.000045,
    "return_30s": -0.00011,
    "return_60s": 0.00021,
    "volatility": 0.00038,
    "trade_intensity": 4.2,
    "spread_abs": 0.01,
    "spread_rel": 1.5384614e-07,
    "order_book_imbalance": 0.18,
}
