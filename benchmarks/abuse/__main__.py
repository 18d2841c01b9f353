"""`python -m benchmarks.abuse --requests 1000000`: nothing that callers send breaks the server, or any other call."""

from __future__ import annotations

import resource
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic_ns, perf_counter

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.abuse import attacks, guided
from benchmarks.abuse.corpus import INFER, PATHS, PREDICT, STREAM, Mutator, header_block, messages, recordings
from benchmarks.abuse.decoders import Decoders
from benchmarks.abuse.health import TARGET_MS, Checks, HealthProbe, probing
from benchmarks.abuse.target import Target, Witness, descriptors, serving
from benchmarks.abuse.wire import NO_STATUS, ROUND, Wire, replay
from benchmarks.machine import header
from benchmarks.stored import store
from benchmarks.targets import Row, at_most
from common.cli import FiniteRange

# Of all requests: in this process; then over sockets: calls and recordings, each front.
SHARES = {"decoders": 0.75, "native": 0.15, "native wire": 0.04, "grpcio": 0.05, "grpcio wire": 0.01}
OUR_FAULT = (2, 13)  # UNKNOWN, INTERNAL
MIN_ATTACK_NS = 2_000_000_000  # of a flood, repeated so long for the sake of the health checks
GROWTH_MB = 16.0  # of a server's memory between the end of its warm-up and the end
CALLS_A_CONNECTION = 2048


@dataclass
class Findings:
    rows: list[tuple[str, str, str]] = field(default_factory=list)  # what, how much, what came of it
    faults: list[str] = field(default_factory=list)
    health: dict[str, Checks] = field(default_factory=dict)  # by front and attack

    def add(self, what: str, count: int, outcome: str) -> None:
        self.rows.append((what, f"{count:,}" if count else "", outcome))
        if outcome.startswith("FAILED"):
            self.faults.append(f"{what}: {outcome}")


@dataclass(frozen=True)
class Abuse:
    console: Console
    progress: Progress
    findings: Findings
    seed: int

    def decoders(self, count: int, *, use_atheris: bool) -> None:
        """Half of them guided by coverage, where atheris can be had."""
        python = guided.environment(self.console) if use_atheris else None
        half = count // 2 if python else 0
        if python is not None:
            task = self.progress.add_task("decoders, coverage-guided", total=half)
            for name in Decoders().targets:
                outcome = guided.run(python, name, half // 5, self.seed, _seeds(name))
                self.findings.add(f"{name}, coverage-guided", half // 5, outcome)
                self.progress.advance(task, half // 5)
        decoders = Decoders()
        each = (count - half) // len(decoders.targets)
        task = self.progress.add_task("decoders, mutated", total=each * len(decoders.targets))
        for name, decode in decoders.targets.items():
            self.findings.add(
                f"{name}, mutated", each, self._decode(decode, Mutator(_seeds(name), self.seed), each, task)
            )

    def _decode(self, decode: Callable[[bytes], None], mutator: Mutator, count: int, task: object) -> str:
        for number in range(count):
            data = mutator.next()
            try:
                decode(data)
            except Exception as error:
                return f"FAILED: {error!r} at {data[:200].hex()}"
            if number % 1000 == 999:
                self.progress.advance(task, 1000)  # type: ignore[arg-type]
        return "no fault"

    def calls(self, target: Target, count: int) -> None:
        mutator = Mutator(messages(), self.seed)
        task = self.progress.add_task(f"{target.front}: calls with mutated messages", total=count)
        statuses: Counter[int] = Counter()
        done = 0
        while done < count:
            with Wire(target.address) as wire:
                for _ in range(min(count - done, CALLS_A_CONNECTION) // ROUND or 1):
                    paths = mutator.random.choices((PREDICT, INFER, STREAM, *PATHS), k=ROUND)
                    statuses += wire.calls([(path, mutator.next()) for path in paths])
                    done += ROUND
                    self.progress.advance(task, ROUND)
        told = ", ".join(f"{code}: {number:,}" for code, number in sorted(statuses.items()))
        bad = sum(statuses[code] for code in (*OUR_FAULT, NO_STATUS))
        self.findings.add(
            f"{target.front}: calls with mutated messages", done, f"{'FAILED: ' if bad else ''}grpc-status {told}"
        )

    def recordings(self, target: Target, count: int) -> None:
        mutator = Mutator(recordings(), self.seed)
        what = f"{target.front}: mutated connections"
        task = self.progress.add_task(what, total=count)
        found: Counter[int] = Counter()
        for number in range(count):
            found.update(replay(target.address, mutator.next()))
            if number % 100 == 99:
                self.progress.advance(task, 100)
        told = ", ".join(f"{code}: {number:,}" for code, number in sorted(found.items()))
        # What grpc-core answers to broken framing is its own.
        bad = target.front == "native" and any(found[code] for code in OUR_FAULT)
        self.findings.add(what, count, f"{'FAILED: ' if bad else ''}grpc-status {told}")

    def attacks(self, target: Target, scale: float, probe: HealthProbe | None = None) -> None:
        """probe: health checks of another client, whose latencies are kept for each attack."""
        count = max(1000, int(30_000 * scale))
        idle = min(max(200, int(10_000 * scale)), _descriptors() - 500)
        attempts: dict[str, Callable[[], str]] = {
            f"flood of {name}": partial(attacks.flood, target, data) for name, data in attacks.floods(count).items()
        }
        attempts["frames of one byte"] = partial(attacks.small_frames, target, max(0.2, 9 * scale), max(0.5, 5 * scale))
        attempts["gzip bombs"] = partial(attacks.bombs, target, max(8, int(128 * scale)))
        attempts["readers that stop"] = partial(
            attacks.slow_readers, target, max(2, int(20 * scale)), max(20, int(300 * scale))
        )
        if target.front == "native":  # grpc-core's time for a handshake is its own, and ends with the settings
            attempts["slow loris"] = partial(attacks.slow_loris, target, max(6, int(60 * scale)))
        attempts["idle connections"] = partial(attacks.idle, target, idle)
        task = self.progress.add_task(f"{target.front}: attacks", total=len(attempts))
        for name, attempt in attempts.items():
            began_ns = monotonic_ns()
            outcome = attempt()
            while name.startswith("flood") and probe is not None and monotonic_ns() - began_ns < MIN_ATTACK_NS * scale:
                outcome = attempt()
            if probe is not None:
                checks = self.findings.health[f"{target.front}: {name}"] = probe.during(began_ns)
                outcome += f"; {checks.line}"
            self.findings.add(f"{target.front}: {name}", 0, outcome)
            self.progress.advance(task)

    def front(self, front: str, requests: int, scale: float) -> None:
        findings = self.findings
        calls, wires = int(requests * SHARES[front]), int(requests * SHARES[f"{front} wire"])
        retries = 100 if front == "grpcio" else 0  # grpc.aio loses its listener to a path that is no UTF-8
        with serving(front) as target, Witness(target.address, retries) as witness:
            quiet = Abuse(self.console, Progress(disable=True), Findings(), self.seed + 1)
            quiet.calls(target, max(2048, calls // 10))
            quiet.recordings(target, max(100, wires // 10))
            quiet.attacks(target, min(scale, 0.3))
            before = target.resident_mb()
            self.calls(target, calls)
            self.recordings(target, wires)
            after = target.resident_mb()
            grown = after - before
            flat = f"{'FAILED: ' if grown > GROWTH_MB else ''}{before:.0f} -> {after:.0f} MB"
            findings.add(f"{front}: memory over all those calls", 0, flat)
            with probing(target.address) as probe:
                self.attacks(target, scale, probe)
            end = f"{before:.0f} -> {target.resident_mb():.0f} MB, {descriptors(target.pid)} descriptors open"
            findings.add(f"{front}: memory after the attacks too", 0, end)
            faults = target.faults()
            # A path that is no UTF-8 ends grpc.aio's server. A call may be lost until its listener opens again.
            lost = target.lost_listeners()
            if witness.late > lost:
                witness.wrong.append(f"{witness.late} calls met their deadline, {lost} listeners were lost")
            if lost:
                findings.add(
                    f"{front}: listened anew", lost, "after a path that is no UTF-8, which ends grpc.aio's server"
                )
            alive = "the server lives, nothing of a fault in its log"
            findings.add(f"{front}: server", 0, f"FAILED: {faults[:3]}" if faults or not target.alive else alive)
        told = f"FAILED: {Counter(witness.wrong).most_common(3)}" if witness.wrong or not witness.calls else "all right"
        told += f", {witness.retried} tried again" if witness.retried else ""
        told += f", {witness.refused} refused while the queue was full" if witness.refused else ""
        findings.add(f"{front}: well-formed calls beside", witness.calls, told)


def _seeds(target: str) -> list[bytes]:
    if target == "connection":
        return recordings()
    if target == "headers":
        return [header_block(path, (b"grpc-timeout", b"1S")) for path in PATHS] + [
            b"\x3f\xe1\x1f\x82",
            b"\x40\x01a\x01b",
        ]
    return messages()


def _descriptors() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard > 0 else soft, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _save(health: dict[str, Checks], command: str) -> None:
    """Stores a row per attack, the slowest first: benchmarks.scorecard shows them."""
    rows = [
        Row(
            what=f"health checks during {name}, p99",
            unit="ms",
            ours=checks.p99_ms,
            target=at_most(TARGET_MS, "ms"),
            note=f"{checks.checks} checks, max {checks.max_ms:.1f} ms",
        )
        for name, checks in sorted(health.items(), key=lambda item: -item[1].p99_ms)
    ]
    store("attacks", command, rows)


@click.command(context_settings={"show_default": True})
@click.option("--requests", type=click.IntRange(100), default=1_000_000, help="Of all kinds together.")
@click.option("--fronts", default="native,grpcio", help="Which are tried over sockets; empty: none.")
@click.option("--scale", type=FiniteRange(0.01, 1), default=1.0, help="Of the attacks: connections, frames.")
@click.option("--seed", type=int, default=1, help="The same seed sends the same.")
@click.option("--atheris/--no-atheris", default=True, help="Coverage-guided decoders, in an environment of its own.")
@click.option("--save", is_flag=True, help="Keep the latencies of health checks in benchmarks/results/attacks.json.")
def main(requests: int, fronts: str, scale: float, seed: int, atheris: bool, save: bool) -> None:
    console, findings = Console(), Findings()
    header(console, f"python -m benchmarks.abuse --requests {requests} --seed {seed}", "sockets on loopback")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    began = perf_counter()
    with Progress(*columns, console=console) as progress:
        abuse = Abuse(console, progress, findings, seed)
        abuse.decoders(int(requests * SHARES["decoders"]), use_atheris=atheris)
        for front in filter(None, fronts.split(",")):
            abuse.front(front, requests, scale)
    table = Table("what", "requests", "what came of it", highlight=False)
    for row in findings.rows:
        table.add_row(*row)
    console.print(table)
    total = sum(
        int(count.replace(",", ""))
        for what, count, _ in findings.rows
        if count and what.split(": ")[-1] not in ("well-formed calls beside", "listened anew")
    )
    console.print(f"{total:,} requests in {perf_counter() - began:.0f} s; faults: {len(findings.faults)}")
    for fault in findings.faults:
        console.print(f"  {fault}", highlight=False)
    missed = [name for name, checks in findings.health.items() if checks.p99_ms > TARGET_MS]
    console.print(f"health checks above {TARGET_MS:.0f} ms at the 99th percentile: {', '.join(missed) or 'none'}")
    if save:
        _save(findings.health, f"python -m benchmarks.abuse --requests {requests} --scale {scale} --seed {seed}")
    sys.exit(1 if findings.faults else 0)


if __name__ == "__main__":
    main()
