"""`volcast exchange`: a simulated or replayed exchange."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain, islice, takewhile
from math import inf
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from common.cli import Duration, FiniteRange, Speed, config_option, examples, json_option
from common.config import Config, load_config
from common.errors import InputError, UsageError
from common.lifecycle import stop_on_signals
from common.log import configure_logs, get_logger
from common.ports import open_port
from common.status import StatusPipe
from pipeline.archive import expand_paths, read_messages, require_messages
from pipeline.exchange.faults import Fault, Faults
from pipeline.exchange.items import Item, Restart, replayed, simulated
from pipeline.exchange.server import ExchangeServer
from pipeline.exchange.simulator import PROFILES, START_NS, describe_market, simulate
from pipeline.feed.coinbase import CoinbaseFeed

_STATS_S = 1.0
FAULT_NAMES = ", ".join(Fault)


@click.command(
    "exchange",
    epilog=examples(
        "volcast exchange --simulate --seed 7 --rate 5",
        "volcast exchange --replay data/raw --speed max",
        "volcast exchange --simulate --fault drop=0.001 --fault cut=0.0005 --fault-seed 7",
        "volcast ingest --url ws://127.0.0.1:8765      in another terminal",
    ),
)
@config_option
@click.option("--simulate", "simulation", is_flag=True, help="Simulate BTC-USD and ETH-USD.")
@click.option("--replay", metavar="FILE|DIR|GLOB[,...]", help="Replay recordings; more files may follow.")
@click.argument("files", nargs=-1)
@click.option("--speed", type=Speed(), default=1.0, help="1 (real time, the default), N times as fast, or max.")
@click.option("--seed", type=int, help="Of the simulation; a seed always gives the same ticks.")
@click.option("--rate", type=FiniteRange(min=0, max=10_000, min_open=True), help="Ticks a second and product.")
@click.option("--max-ticks", type=click.IntRange(min=1), help="End the simulation after so many ticks.")
@click.option("--market-time", type=Duration(), help="End the simulation after so much of the market's own time.")
@click.option("--fast-forward", type=Duration(), default=None, help="Send so much of the start at once: warm windows.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0: any free port.")
@click.option("--duration", type=Duration(), help="End after so long.")
@click.option(
    "--fault", "faults", multiple=True, metavar="NAME=RATE", help=f"Inject faults, RATE per message: {FAULT_NAMES}."
)
@click.option("--fault-seed", type=int, default=0, show_default=True, help="The same seed gives the same faults.")
@click.option("--fault-log", type=click.Path(path_type=Path, dir_okay=False), help="Each fault as a line of JSON.")
@json_option
def exchange(
    config_file: Path | None,
    simulation: bool,
    replay: str | None,
    files: tuple[str, ...],
    speed: float,
    seed: int | None,
    rate: float | None,
    max_ticks: int | None,
    market_time: float | None,
    fast_forward: float | None,
    host: str | None,
    port: int | None,
    duration: float | None,
    faults: tuple[str, ...],
    fault_seed: int,
    fault_log: Path | None,
    as_json: bool,
) -> None:
    """A WebSocket server that speaks Coinbase's protocol: ticker, heartbeats, a counter per connection.

    It starts with the first subscription to the ticker, and sends the same messages to all subscribers. Without a
    subscriber it waits. It ends after the last message of the recording. At the end it reports each injected fault,
    with products and sequence number, in --fault-log or in the output of --json.
    """
    if simulation == (replay is not None):
        raise UsageError("exchange: expected one of --simulate and --replay FILE")
    if simulation and files:
        raise UsageError(f"exchange: {files[0]!r} is no option, and --simulate takes no files")
    if replay is not None and not (seed is rate is max_ticks is market_time is None):
        raise UsageError("exchange: --seed, --rate, --max-ticks and --market-time belong to --simulate")
    injector = _faults(faults, fault_seed)
    if fault_log is not None and injector is None:
        raise UsageError("exchange: --fault-log needs a --fault")
    config = load_config(config_file)
    configure_logs(config.log, "exchange")
    plan = _simulation(config, seed, rate, max_ticks, market_time) if replay is None else _recording([replay, *files])
    host = config.exchange.host if host is None else host
    port = config.exchange.port if port is None else port
    stop = stop_on_signals()
    with open_port(host, port, "--port or exchange.port") as listener:
        summary = asyncio.run(_serve(plan, speed, fast_forward or 0.0, injector, host, listener, duration, stop))
    if fault_log is not None and injector is not None:
        _write_fault_log(fault_log, injector)
    if as_json:
        injected = {"injected": [entry._asdict() for entry in injector.injected]} if injector else {}
        click.echo(msgspec.json.encode(summary | injected))


def _faults(texts: tuple[str, ...], seed: int) -> Faults | None:
    """The faults of `--fault NAME=RATE`. Raises UsageError for an unknown name, a name given twice, or a wrong rate."""
    rates: dict[Fault, float] = {}
    for text in texts:
        name, _, rate = text.partition("=")
        try:
            fault = Fault(name)
        except ValueError:
            raise UsageError(f"--fault {text!r}: expected NAME=RATE with a name of {FAULT_NAMES}") from None
        if fault in rates:
            raise UsageError(f"--fault {text!r}: {name} is given twice")
        try:
            rates[fault] = float(rate)
            Faults({fault: rates[fault]})
        except ValueError:
            raise UsageError(f"--fault {text!r}: expected a rate above 0 and at most 1, got {rate!r}") from None
    return Faults(rates, seed) if rates else None


def _write_fault_log(path: Path, faults: Faults) -> None:
    try:
        path.write_bytes(b"".join(msgspec.json.encode(entry._asdict()) + b"\n" for entry in faults.injected))
    except OSError as error:
        raise InputError(f"--fault-log {path}: cannot be written: {error.strerror or error}") from None


class _Plan(NamedTuple):
    feed: Iterator[Item | Restart]
    products: tuple[str, ...] | None
    end_reason: str


def _simulation(
    config: Config, seed: int | None, rate: float | None, max_ticks: int | None, market_time_s: float | None
) -> _Plan:
    seed = config.exchange.seed if seed is None else seed
    rate_per_s = config.exchange.rate_per_s if rate is None else rate
    ticks = simulate(PROFILES, seed, rate_per_s)
    if market_time_s is not None:
        end_ns = START_NS + round(market_time_s * 1e9)
        ticks = takewhile(lambda tick: tick.event_time_ns < end_ns, ticks)
    return _Plan(simulated(islice(ticks, max_ticks)), tuple(PROFILES), "end of simulation")


def _recording(names: list[str]) -> _Plan:
    paths = [path for name in names for path in expand_paths(name)]
    require_messages(paths, CoinbaseFeed.venue)
    feed = replayed(read_messages(paths))
    first = next(feed, None)
    if first is None:
        raise InputError(f"nothing to send in {', '.join(map(str, paths))}")
    return _Plan(chain((first,), feed), None, "end of recording")


async def _serve(
    plan: _Plan,
    speed: float,
    fast_forward_s: float,
    faults: Faults | None,
    host: str,
    listener: socket.socket,
    duration_s: float | None,
    stop: threading.Event,
) -> dict[str, object]:
    log = get_logger()
    status = StatusPipe(stop)
    server = ExchangeServer(
        plan.feed,
        products=plan.products,
        speed=speed,
        end_reason=plan.end_reason,
        fast_forward_s=fast_forward_s,
        faults=faults,
    )

    def on_ready(bound: int) -> None:
        url = f"ws://{f'[{host}]' if ':' in host else host}:{bound}"
        log.info("listening", url=url, speed="max" if speed == inf else speed)
        status.report("ready", url=url, port=bound, products=plan.products)

    async def report_stats() -> None:
        while True:
            await asyncio.sleep(_STATS_S)
            status.report(
                "stats", clients=server.clients, market=describe_market(server.now_ns), **asdict(server.counts)
            )

    stats = asyncio.create_task(report_stats())
    try:
        reason = await server.run(listener, on_ready=on_ready, stopped=stop.is_set, duration_s=duration_s)
    finally:
        stats.cancel()
    summary: dict[str, object] = asdict(server.counts)
    if faults is not None:
        summary["faults"] = faults.counts()
    log.info("ended", reason=reason, **summary)
    status.report("summary", **summary)
    return summary
