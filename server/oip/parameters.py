"""Parameters of a request: the routing key, spike size, and levels of quantiles.

A parameter of the protocol holds a scalar, so the levels of quantiles are a string with commas. A number may be a
string, too, since KServe's clients have no doubles.
"""

from __future__ import annotations

from typing import Any

from common.config import MAX_LEVELS
from common.errors import RequestError
from common.text import shown
from server.core.forecast_query import LEVELS, MULTIPLE, SIZE
from server.core.requests import DEFAULT_QUERY, ForecastQuery

ROUTING_KEY = "routing_key"
_NUMBERS = ("double_param", "int64_param", "uint64_param", "string_param")


def routing_key(parameters: Any) -> str:
    """parameters: the request's map of InferParameter. Raises RequestError if the key is no string."""
    if not parameters or ROUTING_KEY not in parameters:
        return ""
    return _text(parameters, ROUTING_KEY, "a string_param")


def forecast_query(parameters: Any) -> ForecastQuery:
    """The query, not yet validated against a model. Raises RequestError for a value that is no number."""
    if not parameters:
        return DEFAULT_QUERY
    size, multiple = (_number(parameters, name) if name in parameters else 0.0 for name in (SIZE, MULTIPLE))
    levels = _levels(parameters) if LEVELS in parameters else ()
    return ForecastQuery(size, multiple, levels) if size or multiple or levels else DEFAULT_QUERY


def _number(parameters: Any, name: str) -> float:
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    try:
        if kind in _NUMBERS:
            return float(getattr(parameter, kind))
    except ValueError:  # a string that is no number
        pass
    raise RequestError.of(f"parameters[{name}]", "expected a number: double_param, int64_param or string_param")


def _levels(parameters: Any) -> tuple[float, ...]:
    expected = f"a string_param of at most {MAX_LEVELS} numbers with commas between them, such as 0.1,0.5,0.9"
    text = _text(parameters, LEVELS, expected)
    if not text.strip():
        return ()
    try:
        # The rest of a text with too many commas is no number.
        return tuple(float(part) for part in text.split(",", MAX_LEVELS))
    except ValueError:
        raise RequestError.of(f"parameters[{LEVELS}]", f"expected {expected}, got {shown(text)}") from None


def _text(parameters: Any, name: str, expected: str) -> str:
    parameter = parameters[name]
    if parameter.WhichOneof("parameter_choice") != "string_param":
        raise RequestError.of(f"parameters[{name}]", f"expected {expected}")
    text: str = parameter.string_param
    return text
