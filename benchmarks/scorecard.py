"""The targets of the serving path in one table: target, figure, yes or no; rows that miss stay.

python -m benchmarks.scorecard [--quick] [--only SECTION]... [--baseline COMMIT] [--save]

Every row is measured in this run, in turns: this tree, the baseline commit and an echo without a model, with the
same client. Rows of commands that take longer are read from where these commands stored them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from math import isnan

import click
from rich.console import Console
from rich.table import Table

from benchmarks.checkout import BASELINE, checkouts
from benchmarks.h2load import h2load
from benchmarks.machine import header
from benchmarks.native.peers import StreamMode, built, rust_echo, stream_client
from benchmarks.paired import paired
from benchmarks.real_clients import CPP_CASES, METADATA_CASES, OTHER_CASES, Case, rows_of
from benchmarks.requests import check, request
from benchmarks.sections import Rows, measured
from benchmarks.sides import CPP, TONIC, Side, compared, servers
from benchmarks.stored import store, stored
from benchmarks.targets import Row, Target, at_least, at_most, figure, verdict
from benchmarks.turns import Run
from benchmarks.unary import IN_FLIGHT, ROWS
from benchmarks.versions import versions

FULL_ROUNDS, QUICK_ROUNDS = 6, 2  # six are the fewest whose interval has 95 % confidence
FILE_WIDTH = 200
NO_LOSS, NO_SLOWER = at_least(0.95), at_most(1.05)  # of a rate and of a time, beside the baseline
Sides = tuple[Side, Side, Side]
# What other commands measure: name of the stored rows -> command, and the rows to expect.
STORED: dict[str, tuple[str, tuple[tuple[str, Target], ...]]] = {
    "calls": ("python -m benchmarks.regression --save", ()),
    "attacks": (
        "python -m benchmarks.abuse --save",
        (("health checks during each attack, p99 of the worst", at_most(50, "ms")),),
    ),
    "drain": (
        "python -m benchmarks.drain --save",
        (
            ("drain behind Envoy and HAProxy, failed unary calls", at_most(0, "calls")),
            ("drain behind Envoy and HAProxy, streams without a status", at_most(0, "streams")),
        ),
    ),
}


def real_clients(run: Run, sides: Sides, cases: tuple[Case, ...] = CPP_CASES + METADATA_CASES) -> Iterator[Row]:
    yield from rows_of(run, cases, sides)


def h2load_rows(run: Run, sides: Sides) -> Iterator[Row]:
    """One message again and again, as these rows were measured before."""
    baseline, calls = sides[1].name, run.scaled(40_000)
    with ExitStack() as stack:
        beside = sides
        targets: dict[tuple[str, str], Target | None] = {
            ("calls_per_s", CPP): None,
            ("calls_per_s", baseline): NO_LOSS,
        }
        if built("echo_rust"):
            tonic = stack.enter_context(rust_echo())
            beside = (*sides, Side(TONIC, tonic.address, tonic.pid))  # type: ignore[assignment]
            targets["calls_per_s", TONIC] = at_least(1.0)
        what = f"h2load, 1 row, {IN_FLIGHT} in flight"
        yield from compared(run, what, lambda side: _rate(side, IN_FLIGHT, calls), beside, targets)
    few = run.scaled(10_000)
    what, targets = "h2load, 1 row, 1 in flight", {("mean_us", CPP): None, ("mean_us", baseline): NO_SLOWER}
    yield from compared(run, what, lambda side: {"mean_us": 1e6 / h2load(side.address, 1, few)}, sides, targets)


def _rate(side: Side, in_flight: int, calls: int) -> dict[str, float]:
    return {"calls_per_s": h2load(side.address, in_flight, calls)}


def streams(run: Run, sides: Sides) -> Iterator[Row]:
    baseline = sides[1].name
    check(sides[0].address)

    def rows(what: str, mode: StreamMode, figure: str, count: int, targets: dict[str, Target | None]) -> Iterator[Row]:
        message = request(ROWS if mode == "rows" else 1)
        load = partial(_stream, mode=mode, message=message, count=count)
        named = {(figure, beside): target for beside, target in targets.items()}
        yield from compared(run, f"StreamPredict, {what}", load, sides, named)

    pings, messages, frames = run.scaled(10_000), run.scaled(100_000), run.scaled(20_000)
    yield from rows("1 row, ping-pong", "pingpong", "p50_us", pings, {CPP: None, baseline: NO_SLOWER})
    yield from rows("1 row, pipelined", "pipelined", "messages_per_s", messages, {CPP: None, baseline: NO_LOSS})
    yield from rows("256 rows", "rows", "rows_per_s", frames, {CPP: at_least(0.8), baseline: None})


def _stream(side: Side, mode: StreamMode, message: object, count: int) -> dict[str, float]:
    coalesce = mode != "pingpong"
    return stream_client(side.address, mode, message, count=count, in_flight=IN_FLIGHT, coalesce=coalesce)  # type: ignore[arg-type]


SECTIONS: dict[str, Callable[[Run, Sides], Iterator[Row]]] = {
    "clients": real_clients,
    "other-clients": partial(real_clients, cases=OTHER_CASES),
    "h2load": h2load_rows,
    "streams": streams,
}


def stored_rows(name: str) -> Iterator[Row]:
    """Rows that another command stored, and for each expected row that is missing one without a figure."""
    command, expected = STORED[name]
    kept = stored(name)
    if kept is not None:
        yield from kept.rows
        return
    for what, target in expected:
        yield Row(what=what, unit=target.unit, ours=float("nan"), target=target, note=f"not measured: {command}")


def table(rows: list[Row], baseline: str) -> Table:
    """A line a figure: this tree, the baseline and the echo, and each target with its verdict."""
    printed = Table("what", "this tree", baseline, "echo", "tree / echo", f"{baseline} / echo", f"tree / {baseline}")
    printed.add_column("target")
    printed.add_column("reached")
    for what in dict.fromkeys(row.what for row in rows):
        group = [row for row in rows if row.what == what]
        echo = next((row for row in group if row.beside not in ("", baseline)), None)
        before = next((row for row in group if row.beside == baseline), None)
        bounded = [row for row in group if row.target is not None]
        printed.add_row(
            f"{what}\n[dim]{group[0].note}[/dim]" if group[0].note else what,
            "" if isnan(group[0].ours) else f"{figure(group[0].ours)} {group[0].unit}",
            _theirs(before),
            _theirs(echo),
            _ratio(echo),
            f"{paired(before.their_rounds, echo.their_rounds).ratio:.2f}" if before and echo else "",
            _ratio(before),
            "\n".join(f"{row.target} {row.beside}" for row in bounded),
            "\n".join(f"{verdict(row)}{_against(row)}" for row in bounded),
            style="red" if any(row.reached is False for row in bounded) else None,
        )
    return printed


def _against(row: Row) -> str:
    return "" if row.ratio is None else f", {row.ratio:.2f}"


def _theirs(row: Row | None) -> str:
    return "" if row is None or row.theirs is None else figure(row.theirs)


def _ratio(row: Row | None) -> str:
    return "" if row is None or row.paired is None else str(row.paired)


@click.command()
@click.option("--quick", is_flag=True, help="Short rounds: shows that every row runs, proves no figure.")
@click.option("--only", multiple=True, type=click.Choice(list(SECTIONS)), help="These sections.")
@click.option("--baseline", default=BASELINE, show_default=True, help="The commit to compare with.")
@click.option("--save", is_flag=True, help="Stores the rows in benchmarks/results/scorecard.json.")
def main(quick: bool, only: tuple[str, ...], baseline: str, save: bool) -> None:
    """Measures the targets of the serving path: about ten minutes, with --quick about two."""
    if save and (quick or only):
        raise click.UsageError("--save stores whole runs: leave out --quick and --only")
    console = Console(width=None if Console().is_terminal else FILE_WIDTH)
    rounds = QUICK_ROUNDS if quick else FULL_ROUNDS
    options = "".join([" --quick" * quick, *(f" --only {name}" for name in only)])
    command = f"python -m benchmarks.scorecard{options} --baseline {baseline}"
    kept = [] if only else [row for name in STORED for row in stored_rows(name)]
    chosen = {name: SECTIONS[name] for name in only or SECTIONS}
    rows: list[Row] = []
    messages: list[str] = []
    with checkouts(baseline) as pair, servers(*pair) as sides:
        for name, section in chosen.items():
            figures = measured(console, name, _with(section, sides), quick=quick, rounds=rounds)
            rows += figures.rows
            messages += [f"{name}: {figures.message}"] if figures.message else []
    if save:  # before anything else that could fail
        console.print(f"stored in {store('scorecard', command, rows)}", highlight=False)
    header(console, command, f"{rounds} rounds in turns; medians; the ratio of the rounds and its interval")
    console.print(", ".join(f"{name} {number}" for name, number in versions().items()), highlight=False)
    console.print(table(rows + kept, baseline))
    for message in messages:
        console.print(message, style="red", markup=False)
    if messages:
        raise SystemExit(1)


def _with(section: Callable[[Run, Sides], Iterator[Row]], sides: Sides) -> Rows:
    return lambda run: section(run, sides)


if __name__ == "__main__":
    main()
