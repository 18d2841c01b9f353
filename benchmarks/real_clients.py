"""Predict from programs of gRPC's own clients, which send another row in every call: C++, Go and Rust."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.native.peers import UnaryClient, unary_client
from benchmarks.requests import request
from benchmarks.sides import CPP, Side, compared
from benchmarks.targets import Row, Target, at_least, at_most
from benchmarks.turns import Run

SECONDS, QUICK_SECONDS = 1.5, 0.5
# What the rows' other fields cost: no model reads them, but clients fill them in.
METADATA: Mapping[str, object] = {"event-times": 1, "product-ids": 1}


@dataclass(frozen=True)
class Case:
    """options: the client's. targets: by figure, of the ratio to the C++ echo."""

    what: str
    options: Mapping[str, object]
    targets: Mapping[str, Target | None]
    client: UnaryClient = "unary_client"


CPP_CASES = (
    Case("1 row, 1 in flight", {"in-flight": 1}, {"p50_us": at_most(0.6)}),
    Case("1 row, 8 in flight", {"in-flight": 8}, {"calls_per_s": at_least(1.0)}),
    Case("1 row, 32 in flight", {"in-flight": 32}, {"calls_per_s": at_least(1.25)}),
    Case("1 row, 128 in flight", {"in-flight": 128}, {"calls_per_s": at_least(1.3)}),
    Case(
        "1 row, 4 connections x 16",
        {"connections": 4, "in-flight": 16},
        {"calls_per_s": at_least(1.1), "p99_us": at_most(0.5), "server_cpu_us": at_most(0.6)},
    ),
    Case(
        "forms of 1, 2, 3 and 5 rows x 8",
        {"rows": "1,2,3,5", "in-flight": 8},
        {"calls_per_s": at_least(1.15), "p99_us": at_most(0.4)},
    ),
    Case("256 rows, 16 in flight", {"rows": 256, "in-flight": 16}, {"calls_per_s": at_least(1.05)}),
)
METADATA_CASES = (
    Case("1 row, 8 in flight, times and products", {"in-flight": 8, **METADATA}, {"calls_per_s": None}),
    Case("1 row, 32 in flight, times and products", {"in-flight": 32, **METADATA}, {"calls_per_s": None}),
)
OTHER_CASES = (
    Case("1 row, 32 in flight", {"in-flight": 32}, {"calls_per_s": at_least(1.1)}, "unary_go"),
    Case("1 row, 32 in flight", {"in-flight": 32}, {"calls_per_s": at_least(1.1)}, "unary_tonic"),
)
NAMES: Mapping[UnaryClient, str] = {"unary_client": "C++", "unary_go": "grpc-go", "unary_tonic": "tonic"}


def rows_of(run: Run, cases: tuple[Case, ...], sides: tuple[Side, ...]) -> Iterator[Row]:
    """sides: ours, the baseline, the C++ echo."""
    baseline = sides[1].name
    for case in cases:
        targets: dict[tuple[str, str], Target | None] = {(name, CPP): case.targets[name] for name in case.targets}
        targets |= {(name, baseline): None for name in case.targets}
        if case.client == "unary_client":
            targets.setdefault(("server_cpu_us", CPP), None)
            targets.setdefault(("server_cpu_us", baseline), None)

        def load(side: Side, case: Case = case) -> Mapping[str, float]:
            own = {"server-pid": side.pid} if case.client == "unary_client" else {}
            seconds = run.seconds(SECONDS, QUICK_SECONDS)
            return unary_client(side.address, request(), {**case.options, **own}, client=case.client, seconds=seconds)

        yield from compared(run, f"{NAMES[case.client]} client, {case.what}", load, sides, targets)
