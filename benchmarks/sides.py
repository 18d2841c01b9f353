"""Servers that are measured in turns with the same load: this tree, the baseline commit, and an echo."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.checkout import Checkout
from benchmarks.native.peers import cpp_echo
from benchmarks.processes import server
from benchmarks.targets import Row, Target, paired_row
from benchmarks.turns import Run

CPP, TONIC = "C++ echo", "tonic echo"
UNITS = {
    "calls_per_s": "calls/s",
    "messages_per_s": "messages/s",
    "rows_per_s": "rows/s",
    "p50_us": "us",
    "p99_us": "us",
    "mean_us": "us",
    "server_cpu_us": "us of CPU a call",
}
TITLES = {"p50_us": ", p50", "p99_us": ", p99", "mean_us": ", mean latency", "server_cpu_us": ", CPU of the server"}


@dataclass(frozen=True)
class Side:
    """name: what the table calls it."""

    name: str
    address: str
    pid: int


Load = Callable[[Side], Mapping[str, float]]


@contextmanager
def servers(here: Checkout, baseline: Checkout) -> Iterator[tuple[Side, Side, Side]]:
    """This tree, the baseline and the C++ echo. Both servers of ours hold the baseline's models."""
    models = ("--front", "native", "--models-dir", str(baseline.folder / "models"))
    with ExitStack() as stack:
        sides = []
        for checkout in (here, baseline):
            process = stack.enter_context(server(*models, checkout=checkout))
            sides.append(Side(checkout.name, process.address, process.pid))
        echo = stack.enter_context(cpp_echo())
        ours, before = sides
        yield ours, before, Side(CPP, echo.address, echo.pid)


def compared(
    run: Run,
    what: str,
    load: Load,
    sides: tuple[Side, ...],
    targets: Mapping[tuple[str, str], Target | None],
) -> Iterator[Row]:
    """One row a (figure, side) of `targets`: the first side's figure beside that side's, in turns."""
    rounds = run.in_turns(what, {side.name: lambda side=side: load(side) for side in sides})  # type: ignore[misc]
    ours = sides[0].name
    for (name, beside), target in targets.items():
        mine, other = ([figures[name] for figures in rounds[side]] for side in (ours, beside))
        if statistics.median(other) > 0:
            yield paired_row(what + TITLES.get(name, ""), UNITS[name], mine, beside, other, target=target)
