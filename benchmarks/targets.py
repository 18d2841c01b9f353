"""A row of the serving benchmark: what was measured, beside what, and whether that reaches its target."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
from rich.table import Table

from benchmarks.paired import Paired, paired

Bound = Literal["at least", "at most"]
_HOLDS = {"at least": operator.ge, "at most": operator.le}
_SIGNS = {"at least": "≥", "at most": "≤"}


class Target(msgspec.Struct, frozen=True):
    """A bound on the ratio to what stands beside or, where there is a unit, on our own figure."""

    bound: Bound
    limit: float
    unit: str = "×"
    interval: bool = False  # whether the whole interval of the ratio must keep to the limit, not its median alone

    def __str__(self) -> str:
        return f"{_SIGNS[self.bound]} {self.limit:,.10g} {self.unit}{', interval' if self.interval else ''}"

    def holds(self, value: float) -> bool:
        return bool(_HOLDS[self.bound](value, self.limit))


def at_least(limit: float, unit: str = "×") -> Target:
    return Target("at least", limit, unit)


def at_most(limit: float, unit: str = "×", *, interval: bool = False) -> Target:
    return Target("at most", limit, unit, interval)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Our figure and, where there is one, that of what was measured in turns with it."""

    what: str
    unit: str
    ours: float
    beside: str = ""
    theirs: float | None = None
    target: Target | None = None
    note: str = ""
    our_rounds: tuple[float, ...] = ()
    their_rounds: tuple[float, ...] = ()
    paired: Paired | None = None

    @property
    def ratio(self) -> float | None:
        """Ours over theirs, whichever way is better."""
        if self.paired is not None:
            return self.paired.ratio
        return self.ours / self.theirs if self.theirs else None

    @property
    def reached(self) -> bool | None:
        """None where the row is shown for comparison only."""
        if self.target is None:
            return None
        if self.target.interval:
            return self.paired is not None and all(map(self.target.holds, (self.paired.low, self.paired.high)))
        value = self.ratio if self.target.unit == "×" else self.ours
        return value is not None and self.target.holds(value)


def medians(
    what: str,
    unit: str,
    ours: Sequence[float],
    beside: str = "",
    theirs: Sequence[float] = (),
    *,
    target: Target | None = None,
    note: str = "",
) -> Row:
    """The row of the rounds' medians."""
    return Row(
        what=what,
        unit=unit,
        ours=statistics.median(ours),
        beside=beside,
        theirs=statistics.median(theirs) if theirs else None,
        target=target,
        note=note,
        our_rounds=tuple(ours),
        their_rounds=tuple(theirs),
    )


def paired_row(
    what: str,
    unit: str,
    ours: Sequence[float],
    beside: str,
    theirs: Sequence[float],
    *,
    target: Target | None = None,
    note: str = "",
) -> Row:
    """As `medians`, with the ratio and its interval of the rounds' ratios."""
    row = medians(what, unit, ours, beside, theirs, target=target, note=note)
    return msgspec.structs.replace(row, paired=paired(ours, theirs))


def figure(value: float) -> str:
    """As many digits as say something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def verdict(row: Row) -> str:
    return {None: "", True: "yes", False: "no"}[row.reached]


def table(rows: Iterable[Row]) -> Table:
    printed = Table("what", "ours", "beside, in turns", "ratio", "target", "reached")
    for row in rows:
        beside = row.beside if row.theirs is None else f"{row.beside}: {figure(row.theirs)}"
        ratio = str(row.paired) if row.paired else "" if row.ratio is None else f"{row.ratio:.2f}"
        style = "red" if row.reached is False else None
        what = f"{row.what}\n[dim]{row.note}[/dim]" if row.note else row.what
        ours = f"{figure(row.ours)} {row.unit}"
        printed.add_row(what, ours, beside, ratio, str(row.target or ""), verdict(row), style=style)
    return printed
