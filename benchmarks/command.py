"""`volcast bench NAME`."""

from __future__ import annotations

import importlib
import sys
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.console import Console

from benchmarks import readme, serving
from benchmarks.machine import machine
from common.cli import examples, json_option
from common.errors import UsageError

# Name -> module with a function run(console) that prints tables and returns figures.
BENCHMARKS = {
    "serving": "benchmarks.serving",
    "features": "benchmarks.features",
    "feed": "benchmarks.feed",
    "ingest": "benchmarks.ingest",
    "backfill": "benchmarks.backfill",
    "scaling": "benchmarks.scaling",
    "worker": "benchmarks.worker",
    "latency": "benchmarks.latency",
}

FILE_WIDTH = 160


@click.command(
    epilog=examples(
        "volcast bench all", "volcast bench serving --quick", "volcast bench serving --only peers --with-peers --save"
    )
)
@click.argument("name", type=click.Choice([*BENCHMARKS, "all"]), default="all")
@click.option("--quick", is_flag=True, help="serving: short rounds, a smoke that proves no figure.")
@click.option("--with-peers", is_flag=True, help="serving: other model servers too; installs them, once.")
@click.option("--only", multiple=True, type=click.Choice(list(serving.SECTIONS)), help="serving: these sections.")
@click.option("--save", is_flag=True, help="Keep the figures in benchmarks/results and README's table.")
@json_option
def bench(name: str, quick: bool, with_peers: bool, only: tuple[str, ...], save: bool, as_json: bool) -> None:
    """Measures, and prints figures with machine, load, date and command.

    Speed is a ratio to something measured in the same run; a figure of one run alone means little.
    """
    if save and (quick or name not in ("serving", "all")):
        raise UsageError("bench: --save keeps whole runs, of all or of serving")
    if (quick or with_peers or only) and name not in ("serving", "all"):
        raise UsageError(f"bench: --quick, --with-peers and --only are of serving, got {name}")
    # A file has no width of its own.
    console = Console(stderr=as_json, width=None if (sys.stderr if as_json else sys.stdout).isatty() else FILE_WIDTH)
    about = machine(), f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    chosen = list(BENCHMARKS) if name == "all" else [name]
    options = serving.Options(quick, with_peers, only)
    figures = {one: _run(one, console, options) for one in chosen}
    if save:
        readme.save(figures, *about)
    if as_json:
        click.echo(msgspec.json.encode(figures))
    if any("error" in section for section in figures.get("serving", {}).values()):
        raise SystemExit(1)


def _run(name: str, console: Console, options: serving.Options) -> dict[str, Any]:
    if name == "serving":
        return serving.run(console, options)
    figures: dict[str, Any] = importlib.import_module(BENCHMARKS[name]).run(console)
    return figures
