"""A part of a benchmark run: some rows, and what kept others from being measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.machine import load
from benchmarks.native.peers import NotBuiltError
from benchmarks.targets import Row
from benchmarks.turns import Run

Rows = Callable[[Run], Iterator[Row]]


@dataclass
class SectionFigures:
    """load: the machine's at the end. message: why rows are missing; failed: an error is why."""

    rows: list[Row]
    load: float = 0.0
    message: str = ""
    failed: bool = False

    def as_builtins(self) -> dict[str, Any]:
        rows = [row_as_builtins(row) for row in self.rows]
        about = {"error": self.message} if self.failed else {"left_out": self.message} if self.message else {}
        return {"load": self.load, "rows": rows, **about}


def row_as_builtins(row: Row) -> dict[str, Any]:
    """With what follows from the fields, for whoever reads the file without this code."""
    fields: dict[str, Any] = msgspec.to_builtins(row)
    return fields | {"ratio": row.ratio, "reached": row.reached}


def measured(console: Console, name: str, rows: Rows, *, quick: bool, rounds: int = 0) -> SectionFigures:
    """One section that fails does not cost the others; what it had measured by then is kept."""
    figures = SectionFigures([])
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[step]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None, step="")
        try:
            for row in rows(Run(quick, progress, task, rounds)):
                figures.rows.append(row)
        except NotBuiltError as error:
            figures.message = f"left out: {error}"
        except Exception as error:
            figures.message, figures.failed = f"failed: {error}", True
    figures.load = load()
    return figures
