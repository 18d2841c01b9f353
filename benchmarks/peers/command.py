"""`python -m benchmarks.peers`: the peers measured one after the other."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import click
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.machine import header
from benchmarks.peers.load import calls_per_s
from benchmarks.peers.running import peer
from benchmarks.peers.specs import PEERS
from common.cli import json_option

ROUNDS = 5
IN_FLIGHT = (1, 32)


@dataclass(frozen=True)
class Figures:
    """Calls a second by how many are in flight, medians over the rounds; or why there are none."""

    version: str
    calls_per_s: dict[int, float]
    error: str = ""


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(PEERS)))
@click.option("--seconds", default=2.0, show_default=True, help="Length of each measurement.")
@json_option
def peers(names: tuple[str, ...], seconds: float, as_json: bool) -> None:
    """Measures Python model servers with the shipped model: one row a call, all of them by default."""
    console = Console(stderr=as_json)
    figures = {name: _measured(name, seconds, console) for name in names or PEERS}
    how = f"{ROUNDS} rounds of {seconds:g} s each, medians; h2load, one row a call, one peer at a time, checked"
    header(console, "python -m benchmarks.peers", how)
    console.print(_table(figures))
    if as_json:
        click.echo(msgspec.json.encode(figures))
    if any(one.error for one in figures.values()):
        raise SystemExit(1)


def measure(name: str, seconds: float, console: Console) -> Figures:
    """Starts the peer, proves its answers before and after, measures it in between."""
    spec = PEERS[name]
    series: dict[int, list[float]] = {in_flight: [] for in_flight in IN_FLIGHT}
    with peer(name, console) as target:
        for in_flight in IN_FLIGHT:
            calls_per_s(target, in_flight, 1)
        for _ in range(ROUNDS):
            for in_flight in IN_FLIGHT:
                series[in_flight].append(calls_per_s(target, in_flight, seconds))
        target.check()
    return Figures(spec.version, {in_flight: statistics.median(rates) for in_flight, rates in series.items()})


def _measured(name: str, seconds: float, console: Console) -> Figures:
    """One peer that fails does not keep the others from being measured."""
    try:
        return measure(name, seconds, console)
    except Exception as error:
        console.print(f"{name}: {error}", markup=False, style="red")
        return Figures(PEERS[name].version, {}, str(error))


def _table(figures: dict[str, Figures]) -> Table:
    table = Table("server", "version", *(f"{in_flight} in flight, calls/s" for in_flight in IN_FLIGHT))
    for name, one in figures.items():
        rates = [f"{rate:,.0f}" for rate in one.calls_per_s.values()] or ["failed"] * len(IN_FLIGHT)
        table.add_row(PEERS[name].title, one.version, *rates)
    return table
