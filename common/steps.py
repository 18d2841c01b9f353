"""Progress on standard error: one moving line on a terminal, a plain line a step elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Gives a function that takes how many there are by now; silent where there is no terminal."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.fields[count]:,} " + what),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None, count=0)
        yield lambda count: bar.update(task, count=count)


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Gives a function that takes the step at hand.

    Where there is no terminal, --json keeps it silent: cron mails whatever comes on standard error.
    """
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _quiet if _is_for_a_script() else Lines()
        return
    columns = (progress.SpinnerColumn(), progress.TextColumn("{task.description}"), progress.TimeElapsedColumn())
    with progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda step: bar.update(task, description=step)


class Lines:
    """One line per step, with the time of day. A step that only counts is shown once; "3 of 40 …" at each tenth."""

    def __init__(self) -> None:
        self._shown = ("", 0)

    def __call__(self, step: str) -> None:
        counted = re.match(r"(\d+) of (\d+) ", step)
        tenth = 10 * int(counted[1]) // int(counted[2]) if counted else 0
        shown = (re.sub(r"\d[\d,]*", "N", step), tenth)
        if shown != self._shown:
            self._shown = shown
            click.echo(f"{time.strftime('%H:%M:%S')} {step}", err=True)


def _quiet(step: str) -> None:
    pass


def _is_for_a_script() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.params.get("as_json"))
