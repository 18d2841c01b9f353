"""A run of the serving benchmark whose progress nobody sees."""

from __future__ import annotations

from rich.progress import Progress

from benchmarks.turns import Run


def silent(*, quick: bool = True) -> Run:
    progress = Progress(disable=True)
    return Run(quick, progress, progress.add_task("test", step=""))
