"""The tables of figures in README and docs/benchmarks.md, generated from saved runs: `volcast bench all --save`.

README has a short table: the first row of each section and every row that misses its target.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.targets import Row, figure, verdict

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
_FULL = re.compile(r"(<!-- bench -->\n).*?(<!-- /bench -->)", re.DOTALL)
_SHORT = re.compile(r"(<!-- bench-short -->\n).*?(<!-- /bench-short -->)", re.DOTALL)
_HEADER = ("| what | Volcast | beside it, measured in turns | ratio | target | reached |", "|---|---|---|---|---|---|")


def save(figures: dict[str, Any], machine: str, date: str) -> None:
    """Keeps a run's figures and writes the tables of README and docs/benchmarks.md from them."""
    RESULTS.parent.mkdir(exist_ok=True)
    kept = msgspec.json.decode(RESULTS.read_bytes()) if RESULTS.exists() else {}
    run = merged(kept, figures, machine, date)
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(run)) + b"\n")
    for page in (README, PAGE):
        page.write_text(with_table(page.read_text(), run))


def merged(kept: dict[str, Any], figures: dict[str, Any], machine: str, date: str) -> dict[str, Any]:
    """A run of some sections of serving replaces those; each says when and where it was measured."""
    sections = {name: one for name, one in kept.get("serving", {}).items() if "rows" in one}
    serving = sections | figures.get("serving", {})
    about = {"date": date, "machine": machine, "command": "volcast bench all --save"}
    whole = about if figures.keys() - {"serving"} else {}
    return kept | whole | figures | {"serving": serving}


def with_table(page: str, run: dict[str, Any]) -> str:
    """The text of a page with its tables as this run has them."""
    page = _FULL.sub(lambda block: block[1] + "\n".join(_lines(run)) + "\n" + block[2], page)
    return _SHORT.sub(lambda block: block[1] + "\n".join(_short_lines(run)) + "\n" + block[2], page)


def _short_lines(run: dict[str, Any]) -> Iterator[str]:
    sections = run["serving"].values()
    yield from _HEADER
    for section in sections:
        first, *rest = section["rows"]
        yield from (_serving_line(row) for row in (first, *(row for row in rest if row["reached"] is False)))
    yield ""
    machines = dict.fromkeys(section["machine"].split(", load")[0] for section in sections)
    days = sorted({section["date"].split()[0] for section in sections})
    measured = " to ".join(dict.fromkeys((days[0], days[-1])))
    yield f"{'; '.join(machines)}; {measured}. The echoes run no model and check no row."


def _lines(run: dict[str, Any]) -> Iterator[str]:
    sections = run["serving"]
    if not all("rows" in one for one in sections.values()):
        yield from _without_targets(run)
        return
    yield from _HEADER
    for one in sections.values():
        yield from (_serving_line(row) for row in one["rows"])
    yield from (f"{line} | |" for line in _stream_lines(run["worker"], run["features"]))
    yield ""
    yield from dict.fromkeys(f"{one['machine']}; {one['date']}; `{one['command']}`." for one in sections.values())
    yield f"Features and worker: {run['machine']}; {run['date']}; `{run['command']}`."
    for why in ("left_out", "error"):
        yield from (f"{name.capitalize()}: {one[why]}." for name, one in sections.items() if why in one)
    yield (
        "Where Volcast serves, a ratio is its figure over the other's, and a target that it misses says **no**. "
        "Of features and worker a ratio above 1 is in our favour. The echoes run no model and check no row."
    )


def _serving_line(saved: dict[str, Any]) -> str:
    row = msgspec.convert(saved, Row)
    beside = row.beside if row.theirs is None else f"{row.beside}: {figure(row.theirs)}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    reached = "**no**" if row.reached is False else verdict(row)
    return f"| {row.what} | {figure(row.ours)} {row.unit} | {beside} | {ratio} | {row.target or ''} | {reached} |"


def _without_targets(run: dict[str, Any]) -> Iterator[str]:
    """The table of a run that was saved when serving had no targets."""
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
