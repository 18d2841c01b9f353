"""The recorded ticks through every fault of the exchange, and whether what is committed equals the oracle.

The exchange replays recordings to a real ingest; Apache Kafka, worker and inference server follow. Each fault is
injected alone, then all of them together. The oracle is the offline features of the archive that ingest wrote.

As a reader of committed records sees it, each tick must have exactly one feature row with the same bits. Each warm row
must have exactly one prediction, with the probability that the server gives to the row. `volcast check` must name each
injected loss, and no other gap.

    python -m benchmarks.recorded                      # 73,334 ticks of Coinbase, 14 runs of about a minute
    python -m benchmarks.recorded --case drop --case cut
    python -m benchmarks.recorded --simulated 20000    # where there are no recordings
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.faults.judge import Verdict, archive_oracle, ask_server, judge, read_committed, read_results
from benchmarks.machine import header, machine
from benchmarks.named_gaps import InjectedFault, Naming, Positions, compare
from benchmarks.processes import free_port
from benchmarks.stored import RESULTS
from benchmarks.streaming import await_settled
from cli.run.processes import Process, ProcessGroup
from common.config import KafkaConfig, Topics
from common.errors import UnavailableError
from pipeline.archive import read_messages
from pipeline.broker.kafka import KafkaBroker
from pipeline.datasets import coinbase_ticker_2025
from pipeline.exchange.faults import Fault
from pipeline.exchange.items import Item, Restart, replayed, simulated
from pipeline.exchange.simulator import PROFILES, simulate
from pipeline.records import Gap, Record, Tick, decode_record
from pipeline.stream.gaps import GapSpan
from pipeline.stream.kafka import connect
from pipeline.stream.kafka_topics import ensure_topics

READY_S = 120.0
ENDED_S = 900.0
SETTLED_S = 180.0
INGEST_SILENCE_S = 5.0  # shorter than the silence of the exchange, 20 s
TOGETHER = "all"
NONE = "none"
# Faults per message of a recording of 73,334. Losses are rare enough that most windows stay whole.
RATES: dict[Fault, float] = {
    Fault.DROP: 2e-4,
    Fault.REPEAT: 2e-3,
    Fault.REORDER: 2e-4,
    Fault.DELAY: 2e-4,
    Fault.SPLIT: 5e-3,
    Fault.CUT: 1e-4,
    Fault.GARBAGE: 2e-4,
    Fault.SLOW: 2e-4,
    Fault.SILENCE: 4e-5,
    Fault.RECONNECT_STORM: 5e-5,
    Fault.REFUSED_SUBSCRIPTION: 5e-5,
    Fault.CLOCK_JUMP: 1e-3,
}


@dataclass(frozen=True)
class Market:
    """The messages that the exchange sends: recordings, or simulated ticks."""

    name: str
    arguments: tuple[str, ...]  # of volcast exchange
    products: tuple[str, ...]
    files: tuple[Path, ...] = ()
    ticks: int = 0
    seed: int = 1

    @classmethod
    def recorded(cls) -> Market | None:
        """The 73,334 ticks of Coinbase; None where they are absent."""
        files = tuple(coinbase_ticker_2025())
        if not files:
            return None
        return cls(f"{len(files)} recordings", ("--replay", *map(str, files)), ("BTC-USD",), files)

    @classmethod
    def simulated(cls, ticks: int, seed: int = 1) -> Market:
        arguments = ("--simulate", "--rate", "5", "--seed", str(seed), "--max-ticks", str(ticks))
        return cls(f"{ticks} simulated ticks", arguments, tuple(PROFILES), (), ticks, seed)

    def feed(self) -> Iterator[Item | Restart]:
        if self.files:
            return replayed(read_messages(self.files))
        return islice(simulated(simulate(PROFILES, self.seed, 5.0)), self.ticks)


@dataclass
class Outcome:
    """The result of a case. A verdict with faults, a gap in `unnamed` or `unexplained`, and a problem are failures."""

    case: str
    injected: dict[str, int] = field(default_factory=dict)
    ticks: int = 0
    gaps: dict[str, int] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)
    dead: dict[str, int] = field(default_factory=dict)
    expected_gaps: int = 0
    took_s: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)
    unnamed: list[str] = field(default_factory=list)  # injected losses that no gap names
    unexplained: list[str] = field(default_factory=list)  # gaps that no injected fault explains
    problems: list[str] = field(default_factory=list)  # of volcast check

    @property
    def faults(self) -> int:
        return self.verdict.faults + len(self.unnamed) + len(self.unexplained) + len(self.problems)


class Stage:
    """Kafka and the inference server, and on them one case after another."""

    def __init__(self, folder: Path, cleanup: ExitStack, market: Market) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._market = market
        self._positions = Positions(market.feed())
        broker = cleanup.enter_context(KafkaBroker(folder / "kafka"))
        self._bootstrap_servers = broker.bootstrap_servers
        port = free_port()
        self._server = f"127.0.0.1:{port}"
        processes = cleanup.enter_context(ProcessGroup(folder, None))
        _start(processes, "server", ["serve", "--port", str(port), "--metrics-port", "0"], {})

    def run(self, case: str, rates: Mapping[Fault, float], seed: int) -> Outcome:
        began_s = time.monotonic()
        names = {role: f"{name}-{case}" for role, name in msgspec.structs.asdict(Topics()).items()}
        kafka = KafkaConfig(bootstrap_servers=self._bootstrap_servers, topics=Topics(**names))
        ensure_topics(connect(kafka), kafka)
        folder = self._folder / case
        folder.mkdir()
        environ = self._environ(kafka, case, folder)
        log = folder / "faults.ndjson"
        with ProcessGroup(folder, None) as processes:
            worker = _start(processes, "worker", ["worker"], environ)
            self._feed(processes, rates, seed, log, environ)
            await_settled(kafka, environ["VOLCAST_WORKER__GROUP_ID"], processes, worker, SETTLED_S)
            checked = _check(processes, environ, folder)
        injected = [msgspec.json.decode(line, type=InjectedFault) for line in _lines(log)]
        outcome = Outcome(case, dict(Counter(str(each.fault) for each in injected)))
        by_tick, _ = read_results(kafka)
        outcome.verdict = judge(archive_oracle(folder / "archive"), by_tick, partial(ask_server, self._server))
        self._judge_gaps(outcome, injected, checked, _raw_ticks(outcome, kafka))
        outcome.took_s = round(time.monotonic() - began_s, 1)
        return outcome

    def _environ(self, kafka: KafkaConfig, case: str, folder: Path) -> dict[str, str]:
        return {
            "VOLCAST_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            **{f"VOLCAST_KAFKA__TOPICS__{k.upper()}": v for k, v in msgspec.structs.asdict(kafka.topics).items()},
            "VOLCAST_WORKER__SERVER": self._server,
            "VOLCAST_WORKER__METRICS_PORT": "0",
            "VOLCAST_WORKER__PARQUET_DIR": "",
            "VOLCAST_WORKER__GROUP_ID": f"recorded-{case}",
            "VOLCAST_WORKER__INSTANCE_ID": case,
            "VOLCAST_INGEST__METRICS_PORT": "0",
            "VOLCAST_INGEST__PRODUCTS": ",".join(self._market.products),
            "VOLCAST_INGEST__SILENCE_S": str(INGEST_SILENCE_S),
            "VOLCAST_INGEST__ARCHIVE_DIR": str(folder / "archive"),
            "VOLCAST_INGEST__BACKLOG_DIR": str(folder / "backlog"),
        }

    def _feed(
        self, processes: ProcessGroup, rates: Mapping[Fault, float], seed: int, log: Path, environ: Mapping[str, str]
    ) -> None:
        """The whole market through exchange and ingest."""
        port = free_port()
        faults = [option for fault, rate in rates.items() for option in ("--fault", f"{fault}={rate:f}")]
        if faults:
            faults += ["--fault-seed", str(seed), "--fault-log", str(log)]
        arguments = ["exchange", *self._market.arguments, "--speed", "max", "--port", str(port), *faults]
        exchange = _start(processes, "exchange", arguments, environ)
        url = f"ws://127.0.0.1:{port}"
        ingest = _start(processes, "ingest", ["ingest", "--until-closed", "--url", url], environ)
        for process in (ingest, exchange):
            _await_end(processes, process)

    def _judge_gaps(
        self, outcome: Outcome, injected: Sequence[InjectedFault], checked: Mapping[str, Any], ticks: Sequence[Tick]
    ) -> None:
        spans = msgspec.convert(checked["gap_spans"], list[GapSpan])
        naming: Naming = compare(injected, spans, ticks, self._positions)
        outcome.expected_gaps, outcome.unnamed, outcome.unexplained = (
            naming.expected, naming.unnamed, naming.unexplained,
        )  # fmt: skip
        outcome.problems = list(checked["problems"])
        outcome.late, outcome.dead = checked["late"], checked["dead"]


def _start(processes: ProcessGroup, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> Process:
    process = processes.start(name, arguments, environ)
    deadline_s = time.monotonic() + READY_S
    while process.ready is None:
        processes.listen(0.05)
        if not process.alive or time.monotonic() > deadline_s:
            raise UnavailableError(f"{process.name}: {process.failure_line()}")
    return process


def _await_end(processes: ProcessGroup, process: Process) -> None:
    deadline_s = time.monotonic() + ENDED_S
    while process.alive:
        processes.listen(0.1)
        if time.monotonic() > deadline_s:
            raise UnavailableError(f"{process.name} has not ended within {ENDED_S:g} s: {process.stats}")
    if process.popen is not None and process.popen.returncode:
        raise UnavailableError(f"{process.name}: {process.failure_line()}")


def _check(processes: ProcessGroup, environ: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """The report of `volcast check` on all records of the topics."""
    process = processes.start("check", ["check", "--from-start", "--duration", "1", "--json"], environ)
    assert process.popen is not None
    process.popen.wait(READY_S)
    # Its standard output and error are one file; the report is the last line.
    report: dict[str, Any] = msgspec.json.decode((folder / "check.log").read_bytes().splitlines()[-1])
    return report


def _lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines() if file.exists() else []


def _raw_ticks(outcome: Outcome, kafka: KafkaConfig) -> list[Tick]:
    """The ticks of ticks.raw; its gaps are counted."""
    records: list[Record] = [decode_record(each.value() or b"") for each in read_committed(kafka, kafka.topics.raw)]
    ticks = [record for record in records if isinstance(record, Tick)]
    outcome.ticks = len(ticks)
    outcome.gaps = dict(Counter(record.reason for record in records if isinstance(record, Gap)))
    return ticks


def cases(names: Sequence[str] = (), rates: Mapping[Fault, float] | None = None) -> dict[str, dict[Fault, float]]:
    """Name -> rates: without a fault, each fault alone, all of them together."""
    rates = RATES if rates is None else rates
    every = {NONE: {}, **{str(fault): {fault: rate} for fault, rate in rates.items()}, TOGETHER: dict(rates)}
    return {name: every[name] for name in names or every}


@contextmanager
def stage(market: Market, folder: Path) -> Iterator[Stage]:
    with ExitStack() as cleanup:
        yield Stage(folder, cleanup, market)


def show(console: Console, outcomes: Sequence[Outcome]) -> None:
    columns = ("fault", "injected", "ticks", "rows", "predictions", "gaps", "late", "dead")
    bad = ("lost", "repeated", "altered", "unnamed", "unexplained")
    table = Table(*columns, *bad, "s")
    for each in outcomes:
        gaps = ", ".join(f"{reason} {count}" for reason, count in each.gaps.items())
        verdict = each.verdict
        counts = (sum(each.injected.values()), each.ticks, verdict.rows, verdict.predictions)
        pairs = (
            (verdict.lost_rows, verdict.lost_predictions + verdict.missing_predictions.total()),
            (verdict.repeated_rows, verdict.repeated_predictions),
            (verdict.altered_rows, verdict.altered_predictions),
        )
        table.add_row(
            each.case,
            *(f"{count:,}" for count in counts),
            gaps,
            f"{sum(each.late.values()):,}",
            f"{sum(each.dead.values()):,}",
            *(f"{rows} + {predictions}" for rows, predictions in pairs),
            f"{len(each.unnamed)} of {each.expected_gaps}",
            str(len(each.unexplained)),
            f"{each.took_s:.0f}",
        )
    console.print(table)
    console.print("lost, repeated, altered: feature rows + predictions", highlight=False)
    for each in outcomes:
        for line in (*each.verdict.examples, *each.problems, *each.unnamed[:5], *each.unexplained[:5]):
            console.print(f"  {each.case}: {line}", markup=False, highlight=False)


def store(market: Market, command: str, outcome: Outcome, file: Path) -> None:
    """Replaces the case in the file, which keeps the cases of earlier runs on the same market."""
    cases_kept = _stored_cases(market, file)
    cases_kept[outcome.case] = msgspec.to_builtins(outcome)
    ordered = [cases_kept[name] for name in cases() if name in cases_kept]
    about = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "machine": machine(), "command": command}
    content = {**about, "market": market.name, "cases": ordered}
    file.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")


def _stored_cases(market: Market, file: Path) -> dict[str, Any]:
    stored = msgspec.json.decode(file.read_bytes()) if file.exists() else {}
    return {each["case"]: each for each in stored["cases"]} if stored.get("market") == market.name else {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(cases()), help="only these; default: every case")
    parser.add_argument("--simulated", type=int, metavar="TICKS", help="a simulated market instead of the recordings")
    parser.add_argument("--seed", type=int, default=1, help="of the faults")
    parser.add_argument("--folder", type=Path, help="where logs, archives and Kafka's data stay")
    parser.add_argument("--save", action="store_true", help="keep each case in benchmarks/results/recorded.json")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no further case after so long")
    arguments = parser.parse_args()
    market = Market.simulated(arguments.simulated) if arguments.simulated else Market.recorded()
    if market is None:
        print("recorded: the recordings are absent (VOLCAST_DATA_DIR); a simulated market replaces them")
        market = Market.simulated(70_000)
    console = Console(width=200 if not sys.stdout.isatty() else None)
    outcomes: list[Outcome] = []
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, stage(market, arguments.folder or Path(temporary)) as prepared:
        for name, rates in cases(arguments.case or ()).items():
            if time.monotonic() - began_s > arguments.minutes * 60:
                break
            outcomes.append(prepared.run(name, rates, arguments.seed))
            if arguments.save:
                store(market, "python -m benchmarks.recorded --save", outcomes[-1], RESULTS / "recorded.json")
            console.print(f"{name}: {outcomes[-1].faults} differences, {outcomes[-1].took_s:.0f} s", highlight=False)
    header(console, "python -m benchmarks.recorded", f"{market.name}, seed {arguments.seed}")
    show(console, outcomes)
    return 1 if any(each.faults for each in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
