"""Schemas of research data sets, and how far back the features of each schema look.

core/1 and full/1 are computed by the feature engine, tick by tick, and served (common/schema.py). The
schemas here are computed from columns (scales.py, training/problem/data/) and no server is fed with them: they are
for longer or older recordings than we have ticks of. Columns that mean the same as one of full/1 have its
name: `volatility` is over the last 60 s everywhere.
"""

from __future__ import annotations

from common.errors import InputError
from common.schema import CORE_1, FULL_1, Feature, FeatureSchema

_DAY = (
    Feature("time_of_day_sin", "1", "sine of the time of day in UTC, a day being a turn"),
    Feature("time_of_day_cos", "1", "cosine of the time of day in UTC, a day being a turn"),
)


def _volatility(label: str) -> Feature:
    return Feature(f"volatility_{label}", "log", f"realized volatility of polled mids over {label}")


# Mids polled about every 5 s; features as of a poll, windows (t - w, t]. Warm after an hour.
QUOTES_1 = FeatureSchema(
    "quotes/1",
    (
        Feature("volatility", "log", "realized volatility of polled mids over 60 s"),
        *map(_volatility, ("30s", "120s", "300s", "900s", "1800s", "3600s")),
        Feature(
            "ewma_volatility",
            "log",
            "square root of the sum of squared log-mid returns over 300 s, each weighted by 0.94 a second of its age",
        ),
        Feature("ewma_volatility_3600s", "log", "the same over an hour, the weight halving every 5 min"),
        Feature(
            "bipower_volatility",
            "log",
            "square root of pi / 2 times the sum of products of neighbouring absolute log-mid returns over 60 s",
        ),
        Feature("bipower_volatility_300s", "log", "the same over 300 s"),
        Feature("quarticity_300s", "log", "fourth root of the sum of fourth powers of log-mid returns over 300 s"),
        Feature("max_abs_return", "log", "largest absolute poll-to-poll log-mid return over 60 s"),
        Feature("max_abs_return_300s", "log", "the same over 300 s"),
        Feature("max_abs_return_3600s", "log", "the same over an hour"),
        Feature("downside_share_300s", "1", "share of squared returns over 300 s that are of falls; 1/2 where none"),
        Feature("return_5s", "log", "log of mid over the mid of the poll before"),
        Feature("return_60s", "log", "log of mid over mid as of t - 60 s"),
        Feature("return_300s", "log", "log of mid over mid as of t - 300 s"),
        Feature("return_3600s", "log", "log of mid over mid as of t - 1 h"),
        Feature("range_300s", "log", "log of the highest over the lowest mid of 300 s"),
        Feature("range_3600s", "log", "log of the highest over the lowest mid of an hour"),
        Feature("volatility_of_volatility", "1", "standard deviation of the log of `volatility` over 1800 s"),
        *_DAY,
    ),
)

# One row a minute, as of the minute's end; windows are whole minutes. Warm after an hour.
MINUTES_1 = FeatureSchema(
    "minutes/1",
    (
        Feature("volatility", "log", "Parkinson's volatility of the last minute, from its high and low"),
        Feature("volatility_300s", "log", "the same over 5 minutes"),
        Feature("volatility_900s", "log", "the same over 15 minutes"),
        Feature("volatility_3600s", "log", "the same over 60 minutes"),
        Feature("close_volatility_900s", "log", "realized volatility of minute closes over 15 minutes"),
        Feature("close_volatility_3600s", "log", "realized volatility of minute closes over 60 minutes"),
        Feature("return_60s", "log", "log of close over the close a minute before"),
        Feature("return_300s", "log", "log of close over the close 5 minutes before"),
        Feature("return_3600s", "log", "log of close over the close 60 minutes before"),
        Feature("book_imbalance", "1", "(bid - ask) / (bid + ask) quantities at the minute's end"),
        Feature("order_flow_imbalance", "1", "order flow over the minute, in -1 … 1"),
        Feature("trade_intensity", "1/s", "trades a second over the minute"),
        Feature("trade_intensity_900s", "1/s", "trades a second over 15 minutes"),
        Feature("volume", "base", "traded over the minute"),
        Feature("buy_share", "1", "share of the minute's volume that buyers took"),
        *_DAY,
    ),
)

_WINDOWS_S = {CORE_1.hash: 60, FULL_1.hash: 300, QUOTES_1.hash: 3600, MINUTES_1.hash: 3600}


def window_s(schema: FeatureSchema) -> int:
    """The longest window of a schema's features, in seconds: what must pass before a row is warm, and what
    an embargo adds to the horizon. Raises InputError for a schema that is not known."""
    if schema.hash not in _WINDOWS_S:
        raise InputError(f"schema {schema.name} ({schema.hash}): not known here")
    return _WINDOWS_S[schema.hash]
