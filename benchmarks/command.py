"""`volcast bench NAME`."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime

import click
import msgspec
from rich.console import Console

from benchmarks import readme
from benchmarks.machine import machine
from common.cli import examples, json_option
from common.errors import UsageError

# Name -> module with a function run(console) that prints tables and returns figures.
BENCHMARKS = {
    "serving": "benchmarks.serving",
    "features": "benchmarks.features",
    "feed": "benchmarks.feed",
    "worker": "benchmarks.worker",
}


@click.command(epilog=examples("volcast bench all", "volcast bench serving", "volcast bench features --json"))
@click.argument("name", type=click.Choice([*BENCHMARKS, "all"]), default="all")
@click.option("--save", is_flag=True, help="Keep the figures of `all` in benchmarks/results and README's table.")
@json_option
def bench(name: str, save: bool, as_json: bool) -> None:
    """Measures, and prints figures with machine, load, date and command.

    Speed is a ratio to something measured in the same run; a figure of one run alone means little.
    """
    if save and name != "all":
        raise UsageError(f"bench: --save keeps a run of all, got {name}")
    console = Console(stderr=as_json)
    about = machine(), f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    chosen = list(BENCHMARKS) if name == "all" else [name]
    figures = {one: importlib.import_module(BENCHMARKS[one]).run(console) for one in chosen}
    if save:
        readme.save(figures, *about)
    if as_json:
        click.echo(msgspec.json.encode(figures))
