"""The table of figures in README, generated from a saved run of `volcast bench all --save`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
_BLOCK = re.compile(r"(<!-- bench -->\n).*?(<!-- /bench -->)", re.DOTALL)


def save(figures: dict[str, Any], machine: str, date: str) -> None:
    """Keeps a run's figures and writes README's table from them."""
    RESULTS.parent.mkdir(exist_ok=True)
    run = {"date": date, "machine": machine, "command": "volcast bench all --save", **figures}
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(run)) + b"\n")
    README.write_text(with_table(README.read_text(), run))


def with_table(readme: str, run: dict[str, Any]) -> str:
    """README with its table as this run has it."""
    return _BLOCK.sub(lambda block: block[1] + "\n".join(_lines(run)) + "\n" + block[2], readme)


def _lines(run: dict[str, Any]) -> Iterator[str]:
    yield "| what | Volcast | beside it, in the same run | ratio |"
    yield "|---|---|---|---|"
    for name, row in run["serving"].items():
        echo = f"bare grpc.aio echo, no model: {row['echo']:,.0f}"
        yield f"| {name} | {row['server']:,.0f} | {echo} | {row['ratio']:.2f} |"
    yield from _stream_lines(run["worker"], run["features"])
    yield ""
    yield f"{run['machine']}; {run['date']}; `{run['command']}`."
    yield "A ratio above 1 is in our favour. The server runs the model and checks every row; the echo does neither."


def _stream_lines(worker: dict[str, float], features: dict[str, Any]) -> Iterator[str]:
    with_predictions, alone = worker["worker_ticks_per_s"], worker["features_only_ticks_per_s"]
    yield (
        f"| feature worker, Kafka to predictions to Kafka, ticks/s | {with_predictions:,.0f} "
        f"| without predictions: {alone:,.0f} | {with_predictions / alone:.2f} |"
    )
    arrays, messages = worker["encode_arrays_ns"], worker["encode_messages_ns"]
    yield (
        f"| encoding a feature row, ns | {arrays:,.0f} | as protobuf messages: {messages:,.0f} "
        f"| {messages / arrays:.1f} |"
    )
    for name, engine in features["engine"].items():
        yield from _engine_lines(name, engine)


def _engine_lines(market: str, engine: dict[str, float]) -> Iterator[str]:
    ours, naive = engine["exact sums, batches of 1,000"], engine["naive NumPy, each tick anew"]
    plain = engine["plain sum, one call"]
    title = f"| feature kernel, {market}, ns per tick | {ours:,.0f} "
    yield f"{title}| NumPy, each window anew: {naive:,.0f} | {naive / ours:,.0f} |"
    yield f"{title}| the same with a plain float sum, which drifts: {plain:,.0f} | {plain / ours:.2f} |"
