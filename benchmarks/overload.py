"""Predict, open loop: calls come at their rate whatever the server does, below its capacity and far above.

A closed loop waits for a slow server and so hides how long its calls took; here the clock of each call
starts when it was due.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.h2load import h2load
from benchmarks.native.peers import cpp_echo, open_loop
from benchmarks.processes import Process, server
from benchmarks.requests import check, request
from benchmarks.targets import Row, at_least, at_most, medians
from benchmarks.turns import Run
from benchmarks.unary import CPP, IN_FLIGHT

# Above its capacity the generator would otherwise take the core that the server needs.
TICK_US = 200
# The search for the peak: from this part of what a closed loop reaches, up by this factor a step.
# So many steps end by falls, not by their number: ten ended below what an overload was answered at.
SEARCH_FROM, SEARCH_STEP, SEARCH_STEPS = 0.7, 1.2, 24
SAMPLE_S = 0.25


def half_load(run: Run) -> Iterator[Row]:
    """The tail where a service should be run, beside the C++ echo's at the same rate."""
    with server("--front", "native") as ours, cpp_echo() as cpp:
        run.say("half load, capacity")
        rate = _capacity(ours.address, run.scaled(60_000)) / 2
        lags: list[float] = []
        answered: list[float] = []

        def p99_us(address: str) -> float:
            figures = open_loop(address, rate, run.seconds(5, 2), request())
            answered.append(_answered(figures))
            lags.append(figures["lag_us"]["p99"])
            return float(figures["ok_us"]["p99"])

        tails = run.in_turns("half load", {"ours": lambda: p99_us(ours.address), CPP: lambda: p99_us(cpp.address)})
    what = "Predict, 1 row, open loop at half of capacity, p99"
    note = f"{rate:,.0f} calls/s, Poisson; the generator itself late by {statistics.median(lags):,.0f} us (p99)"
    if min(answered) < 1:
        note += f"; in the worst round {min(answered):.0%} of the calls were answered"
    yield medians(what, "us", tails["ours"], CPP, tails[CPP], target=at_most(3), note=note)


def _capacity(address: str, calls: int) -> float:
    """Calls a second at 32 in flight: the median of three."""
    return statistics.median(h2load(address, IN_FLIGHT, calls) for _ in range(3))


def _answered(figures: dict[str, Any]) -> float:
    """The part of the calls that was answered; the rest found the generator's places taken by calls under way."""
    return float(figures["ok"]) / float(figures["offered"])


def overload(run: Run) -> Iterator[Row]:
    """Five times what it can do: it goes on doing that, refuses the rest at once and holds its memory."""
    with server("--front", "native") as ours:
        peak = _peak(run, ours.address)
        at_80 = [_at(run, "80 % load", ours.address, 0.8 * peak, run.seconds(3, 1)) for _ in range(run.rounds)]
        with _memory(ours) as resident_mb:
            seconds = run.seconds(60, 10)
            over = _at(run, "5 x overload", ours.address, 5 * peak, seconds)
        check(ours.address)
    goodput, tail = [float(over["goodput_per_s"])], [float(over["ok_us"]["p99"])]
    what = f"Predict, 1 row, 5 x overload, open loop, {seconds:g} s, "
    note = _told(over, seconds, peak)
    yield medians(what + "goodput", "calls/s", goodput, "its peak", [peak], target=at_least(0.9), note=note)
    calm = [float(one["ok_us"]["p99"]) for one in at_80]
    note = f"p50 {over['ok_us']['p50']:,.0f} us; waited to be sent, as streams and bytes are limited: "
    note += f"{over['start_us']['p99']:,.0f} us (p99)"
    yield medians(what + "p99 of accepted", "us", tail, "at 80 % of peak", calm, target=at_most(3), note=note)
    quarter = len(resident_mb) // 4
    early, late = resident_mb[quarter : 2 * quarter], resident_mb[-quarter:]
    note = f"its start {resident_mb[0]:.0f} MB, most {max(resident_mb):.0f} MB"
    # Allocators fill their arenas at first; a leak of a byte a call would be hundreds of MB.
    yield medians(what + "memory", "MB", late, "second quarter", early, target=at_most(1.02), note=note)


def _peak(run: Run, address: str) -> float:
    """The most calls a second that were answered well, at any rate: the search goes up until that falls twice.

    Beyond what a closed loop of 32 reaches there is more: batches grow.
    """
    rate, best, falls = SEARCH_FROM * _capacity(address, run.scaled(60_000)), 0.0, 0
    for _ in range(SEARCH_STEPS):
        good = float(_at(run, f"peak, {rate:,.0f}/s", address, rate, run.seconds(3, 1))["goodput_per_s"])
        falls = falls + 1 if good < best else 0
        best = max(best, good)
        if falls == 2:
            break
        rate *= SEARCH_STEP
    return best


def _at(run: Run, what: str, address: str, rate: float, seconds: float) -> dict[str, Any]:
    run.say(what)
    return open_loop(address, rate, seconds, request(), tick_us=TICK_US, drain_s=2)


def _told(figures: dict[str, Any], seconds: float, peak: float) -> str:
    """What the generator could really offer, and what became of the calls that were not answered."""
    sent = (figures["offered"] - figures["not_sent"]) / seconds
    refused = figures["resource_exhausted"] / seconds
    late_us, cores = figures["lag_us"]["p99"], figures["generator_cpu_s"] / seconds
    return (
        f"due {5 * peak:,.0f}/s, sent {sent:,.0f}/s, refused {refused:,.0f}/s at p50 "
        f"{figures['refused_us']['p50']:,.0f} us, other errors {figures['others'] or 'none'}, "
        f"the generator late by {late_us:,.0f} us (p99), on {cores:.2f} cores"
    )


@contextmanager
def _memory(process: Process) -> Iterator[list[float]]:
    """Samples of the resident memory for as long as the block runs."""
    samples: list[float] = [process.resident_mb()]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            samples.append(process.resident_mb())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
