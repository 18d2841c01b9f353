"""Options and parameter types that all commands share: --config, --json, durations, speeds, ranges."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from common.text import shown

F = TypeVar("F", bound=Callable[..., Any])

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class Duration(click.ParamType[float]):
    """`30s`, `500ms`, `2m`, `1h`, as seconds. A number without a unit counts in `bare_unit`."""

    name = "duration"

    def __init__(self, bare_unit: str = "s") -> None:
        self._bare_unit = bare_unit

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h)?", str(value))
        if match is None or not 0 < float(match[1]) < math.inf:
            self.fail(f"{value!r} is not a duration such as 30s, 500ms, 2m or 1h", param, ctx)
        return float(match[1]) * _UNITS_S[match[2] or self._bare_unit]


class FiniteRange(click.FloatRange):
    """A number within limits. click.FloatRange takes "nan", and "inf" where a limit is missing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(super().convert(value, param, ctx))
        except click.BadParameter:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"expected {self._expected()}, got {shown(str(value))}", param, ctx)
        return number

    def _expected(self) -> str:
        if self.min is not None and self.max is not None and not (self.min_open or self.max_open):
            return f"{self.min:g} to {self.max:g}"
        limits = []
        if self.min is not None:
            limits.append(f"{'above' if self.min_open else 'of at least'} {self.min:g}")
        if self.max is not None:
            limits.append(f"{'below' if self.max_open else 'of at most'} {self.max:g}")
        return f"a number {' and '.join(limits) or 'that is finite'}"


class Speed(click.ParamType[float]):
    """`1` is real time, `N` is N times as fast, `max` is as fast as possible (infinity)."""

    name = "speed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        if value == "max":
            return float("inf")
        try:
            speed = float(value)
        except ValueError:
            speed = 0.0
        if not 0 < speed < float("inf"):
            self.fail(f"{value!r} is not a speed: a number above 0, or max", param, ctx)
        return speed


def config_option(function: F) -> F:
    """--config FILE; the command's function takes `config_file: Path | None`."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        metavar="FILE",
        help="Configuration (default: config.yaml here; environment variables win).",
    )(function)


def json_option(function: F) -> F:
    """--json; the command's function takes `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for scripts.")(function)


def examples(*lines: str) -> str:
    """The epilog of a command's help, with examples as a user types them."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
