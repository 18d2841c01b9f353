"""The inference server at the limit of the wire: `volcast bench serving`.

Every row that has a target says whether it is reached; those that are not stay in the table. What is
compared runs as processes on this machine, on loopback, measured in turns within one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from benchmarks.machine import header, machine
from benchmarks.overload import half_load, overload
from benchmarks.peers.running import MODEL
from benchmarks.processes import only_model
from benchmarks.sections import SectionFigures, measured
from benchmarks.startup import startup
from benchmarks.streams import streams
from benchmarks.swaps import swaps
from benchmarks.targets import Row, table
from benchmarks.turns import Run
from benchmarks.unary import grpcio_front, many_in_flight, many_rows, one_in_flight, tls, trees
from benchmarks.versions import versions
from benchmarks.versus import NAMES, require_installed, versus


@dataclass(frozen=True)
class Section:
    """Some rows and what makes them.

    peers: those that it needs installed. as_shipped: our servers hold all models as they are shipped. Otherwise they
    hold the logistic regression only, which the peers run too.
    """

    rows: Callable[[Run], Iterator[Row]]
    how: str
    peers: tuple[str, ...] = ()
    as_shipped: bool = False


_UNARY = "volcast serve --front native; h2load -c1 -m32"
SECTIONS = {
    "unary": Section(many_in_flight, f"{_UNARY} -n60000 (grpc.aio: -n8000)"),
    "latency": Section(one_in_flight, "volcast serve --front native; h2load -c1 -m1 -n15000; CPU from /proc/PID/stat"),
    "trees": Section(trees, f"{_UNARY} -n40000"),
    "grpcio": Section(grpcio_front, "volcast serve --front grpcio; h2load -c1 -m1 -n4000, -m32 -n10000", ("grpc_aio",)),
    "tls": Section(tls, "volcast serve --tls-cert …, either front; h2load -c1 -m32 over https"),
    "tail": Section(half_load, "open_loop --seconds 5 --connections 4, at half of what h2load -m32 reached"),
    "rows": Section(many_rows, "h2load -c1 -m16 -n25000, 256 rows a call"),
    "streams": Section(
        streams, "stream_client pingpong --count 10000; pipelined --count 150000; rows --count 25000; --coalesce 1"
    ),
    "overload": Section(overload, "open_loop --connections 4 --tick-us 200; peak searched, 80 % and 500 % of it"),
    "startup": Section(startup, "volcast serve, five times; /proc/PID/statm", as_shipped=True),
    "swaps": Section(swaps, "python -m benchmarks.rolling --restarts 20 --swaps 100"),
    "peers": Section(versus, "volcast serve --front native; h2load -m32 (HTTP/1.1: -c32), 2 s a round", NAMES),
}


@dataclass(frozen=True)
class Options:
    """quick: short rounds, a smoke. peers: measures them too, and installs what is absent. only: these sections."""

    quick: bool = False
    peers: bool = False
    only: Sequence[str] = ()

    def sections(self) -> dict[str, Section]:
        chosen = self.only or [name for name in SECTIONS if name != "peers" or self.peers]
        return {name: SECTIONS[name] for name in SECTIONS if name in chosen}

    def command(self) -> str:
        words = ["volcast bench serving", *(["--quick"] if self.quick else [])]
        words += ["--with-peers"] if self.peers else []
        return " ".join(words + [f"--only {name}" for name in self.only])


def run(console: Console, options: Options | None = None) -> dict[str, Any]:
    """Prints the table and returns its figures, by section; "error" in one that failed."""
    options = options or Options()
    began = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    measured_with = versions()
    stamp = {"date": began, "machine": machine(), "command": options.command(), "versions": measured_with}
    figures = {name: _section(console, name, one, options) for name, one in options.sections().items()}
    rounds = (
        "2 short rounds, a fifth of the calls: a smoke, no figures" if options.quick else "5 rounds in turns, medians"
    )
    header(console, options.command(), f"{rounds}; one process of ours, packed float64 rows, loopback, load at the end")
    console.print(", ".join(f"{name} {version}" for name, version in measured_with.items()), highlight=False)
    for name in figures:
        console.print(f"  {name}: {SECTIONS[name].how}", highlight=False, style="dim")
    console.print(table(row for one in figures.values() for row in one.rows))
    for name, one in figures.items():
        if one.message:
            console.print(f"{name}: {one.message}", markup=False, style="red" if one.failed else "yellow")
    if "peers" not in figures and not options.only:
        console.print("peers: left out; --with-peers measures them, and installs what is absent", style="yellow")
    return {name: {**stamp, **one.as_builtins()} for name, one in figures.items()}


def _section(console: Console, name: str, section: Section, options: Options) -> SectionFigures:
    def rows(run: Run) -> Iterator[Row]:
        if section.peers and not options.peers:
            require_installed(*section.peers)
        with nullcontext() if section.as_shipped else only_model(MODEL.parent):
            yield from section.rows(run)

    return measured(console, name, rows, quick=options.quick)
