"""Writes docs/data_card.md from the recordings themselves, so that no figure in it can be stale.

python -m training.reporting.data_card [--out docs/data_card.md]
"""

from __future__ import annotations

import gzip
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, VolcastError
from pipeline.archive import read_archive
from pipeline.datasets import (
    DATA_DIR,
    btc_quotes_2021,
    coinbase_minutes,
    coinbase_ticker_2025,
    coinbase_ticker_2026,
    data_dir,
)
from pipeline.records import Gap, Tick
from training.problem.data.dataset import Dataset, Hole
from training.problem.data.load import load
from training.problem.labels import labels, spike_threshold
from training.problem.ticks import NS_PER_S
from training.reporting.explore.figures import days_of, development_rows, hours_of
from training.reporting.explore.result import Day, Hour

DEFAULT_OUT = Path(__file__).resolve().parents[2] / "docs" / "data_card.md"
QUANTILE = 0.90
FINAL_SHARE = 0.20
LONGEST_GAPS = 8


@dataclass(frozen=True, slots=True)
class Raw:
    """What a set of files is before anything is made of it."""

    name: str
    what: str
    files: int
    records: int
    used: int  # of them, those in the pieces
    first_ns: int
    last_ns: int
    pieces: int  # unbroken, as far as the files tell
    recorded_s: float  # of the pieces

    @property
    def rate(self) -> float:
        return self.used / max(self.recorded_s, 1e-9)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A data set that models are developed on."""

    raw: Raw
    title: str
    about: str
    dataset: Dataset
    threshold: float
    hours: list[Hour]
    days: list[Day]


def facts(progress: Callable[[str], None]) -> tuple[list[Labelled], list[Raw]]:
    """Raises InputError where the recordings are not on this machine."""
    root = data_dir()
    if root is None or not (btc_quotes_2021() and coinbase_minutes() and coinbase_ticker_2025()):
        raise InputError(f"the recordings are not here: set {DATA_DIR} or put them at ../shared/data")
    labelled = []
    for title, paths, about in (
        (
            "Coinbase ticks, December 2025",
            coinbase_ticker_2025(),
            "Ticker messages of BTC-USD with best bid, best ask and their quantities. Times are the recorder's "
            "receive times. What the shipped models are trained on.",
        ),
        (
            "Quotes, April and May 2021",
            btc_quotes_2021(),
            "BTC quotes of a dealer polled about every 5 s, over the crash of 19 May. Its spreads are 7 to 34 bps and "
            "not the market's, so mids only. The label is the realized volatility of about twelve returns.",
        ),
        (
            "Coinbase minutes, July and August 2026",
            coinbase_minutes(),
            "BTC-USD by minutes. The label is Parkinson's volatility of the next minute, from its high and low: a "
            "minute has one return. Minutes without high and low are ones in which the recorder stood still and "
            "repeated its last close; they are dropped, and more than five in a row are a gap.",
        ),
    ):
        progress(title)
        labelled.append(labelled_set(title, about, load(paths, progress=progress), len(paths)))
    progress("raw recordings")
    return labelled, _untouched_and_raw(root)


def labelled_set(title: str, about: str, dataset: Dataset, files: int) -> Labelled:
    developed = development_rows(dataset, FINAL_SHARE)
    threshold = spike_threshold(developed.future_volatility, QUANTILE)
    y = labels(dataset.rows.future_volatility, threshold)
    spans = list(dataset.ticks.spans())
    recorded_ns = sum(int(dataset.ticks.time_ns[one.stop - 1] - dataset.ticks.time_ns[one.start]) for one in spans)
    raw = Raw(
        name=title,
        what={"ticks": "ticks", "quotes": "polled quotes", "minutes": "minutes"}[dataset.kind],
        files=files,
        records=dataset.counts["ticks"],
        used=len(dataset.ticks),
        first_ns=int(dataset.ticks.time_ns.min()),
        last_ns=int(dataset.ticks.time_ns.max()),
        pieces=len(spans),
        recorded_s=recorded_ns / NS_PER_S,
    )
    hours = hours_of(dataset.rows, y)
    return Labelled(raw, title, about, dataset, threshold, hours, days_of(dataset.rows, y, dataset.horizon_s))


def _untouched_and_raw(root: Path) -> list[Raw]:
    facts = []
    if coinbase_ticker_2026():
        facts.append(_of_recording("Coinbase ticks, April 2026", coinbase_ticker_2026()))
    exchange = sorted((root / "coinbase_exchange_ticker").glob("*.ndjson.gz"))
    if exchange:
        facts.append(_of_lines("Coinbase Exchange ticker, November 2025", "messages", exchange, _exchange_time))
    for market in ("spot", "usdm"):
        for pair in ("btcusdt", "ethusdt"):
            files = sorted((root / "binance_l1").glob(f"{market}_{pair}_*.gz"))
            if files:
                name = f"Binance {'spot' if market == 'spot' else 'futures'} {pair.upper()}, August 2024"
                facts.append(_of_lines(name, "messages", files, _binance_time))
    return facts


def _of_recording(name: str, paths: Sequence[Path]) -> Raw:
    """Counts ticks and their span; computes nothing from prices."""
    times: list[list[int]] = [[]]
    for record in read_archive(paths):
        if isinstance(record, Gap) and times[-1]:
            times.append([])
        elif isinstance(record, Tick):
            times[-1].append(record.event_time_ns)
    return _raw(name, "ticks", len(paths), [np.array(one, np.int64) for one in times if one])


class _ExchangeLine(msgspec.Struct):
    ts: float


def _exchange_time(line: bytes) -> int:
    return int(msgspec.json.decode(line, type=_ExchangeLine).ts * 1e6) * 1000


def _binance_time(line: bytes) -> int:
    return int(line[: line.index(b" ")])


def _of_lines(name: str, what: str, paths: Sequence[Path], time_of: Callable[[bytes], int]) -> Raw:
    """A piece ends where nothing comes for a minute."""
    times = []
    for path in paths:
        with gzip.open(path, "rb") as file:
            times += [time_of(line) for line in file if line.strip()]
    ordered = np.sort(np.array(times, np.int64))
    cuts = np.flatnonzero(np.diff(ordered) > 60 * NS_PER_S) + 1
    return _raw(name, what, len(paths), np.split(ordered, cuts))


def _raw(name: str, what: str, files: int, pieces: Sequence[NDArray[np.int64]]) -> Raw:
    return Raw(
        name=name,
        what=what,
        files=files,
        records=sum(map(len, pieces)),
        used=sum(map(len, pieces)),
        first_ns=int(min(piece[0] for piece in pieces)),
        last_ns=int(max(piece[-1] for piece in pieces)),
        pieces=len(pieces),
        recorded_s=sum(int(piece[-1] - piece[0]) for piece in pieces) / NS_PER_S,
    )


def render(labelled: Sequence[Labelled], raw: Sequence[Raw]) -> str:
    """The card in Markdown."""
    blocks = [
        "# Data card\n\nWritten by `python -m training.reporting.data_card` from the recordings under "
        "`VOLCAST_DATA_DIR` or `../shared/data`; a test compares. The project ships none of them: most have no licence "
        "to pass on, and `SOURCES.md` beside them says whose they are.",
        "## What there is",
        _table(
            ("data set", "records", "of", "from", "to (UTC)", "files", "pieces", "recorded", "a second"),
            [_raw_row(one) for one in (*(each.raw for each in labelled), *raw)],
        ),
        "The ticks of April 2026 are the final test: nothing but what stands in this table has been computed from them "
        "here, neither features nor labels. The Binance and Coinbase Exchange files are loads to replay and messages "
        "to decode; no model is trained on them.",
        "Base rates below are of spikes: rows whose volatility over the 60 s to come reaches τ, the "
        f"{QUANTILE:g} quantile over the first {1 - FINAL_SHARE:.0%} of the rows, less those whose windows reach into "
        "the rest. That rest judges models, so its rows are counted here but were not looked at otherwise. "
        "Experiments choose a τ of their own in each training part.",
    ]
    for one in labelled:
        blocks += _section(one)
    blocks += ["## Base rates by hour of the day", _hours_table(labelled)]
    return "\n\n".join(blocks) + "\n"


def _section(one: Labelled) -> list[str]:
    data = one.dataset
    counts = ", ".join(
        f"{name.replace('_', ' ')} {count:,}"
        for name, count in data.counts.items()
        if count and name not in ("ticks", "gaps", "rows")
    )
    judging = len(data.rows) - int(0.8 * len(data.rows))
    return [
        f"## {one.title}",
        one.about,
        f"- Read {data.counts['ticks']:,} {one.raw.what}; dropped: {counts}. Left: **{len(data.rows):,} rows** of "
        f"`{data.schema.name}` (`{data.schema.hash}`), at most one in {data.sample_period_s} s, "
        f"the last {judging:,} for judging.\n"
        f"- τ = {1e4 * one.threshold:.4g} bps; base rate over all rows "
        f"{float(np.mean(data.rows.future_volatility >= one.threshold)):.1%}.\n"
        f"- SHA-256 over names and bytes: `{data.sha256}`.",
        _gaps(data.gaps),
        _table(
            ("day", "rows", "they span", "base rate", "median volatility, bps"),
            [
                (
                    day.day,
                    f"{day.rows:,}",
                    f"{day.hours:.1f} h",
                    f"{day.spike_rate:.1%}",
                    f"{1e4 * day.quartiles[1]:.2f}",
                )
                for day in one.days
            ],
        ),
    ]


def _gaps(gaps: Sequence[Hole]) -> str:
    if not gaps:
        return "No gaps."
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(Counter(gap.reason for gap in gaps).items()))
    longest = sorted(gaps, key=lambda gap: (-gap.seconds, gap.start_ns))[:LONGEST_GAPS]
    listed = "; ".join(f"{_time(gap.start_ns)}, {_duration(gap.seconds)}" for gap in longest)
    total = _duration(sum(gap.seconds for gap in gaps))
    return f"{len(gaps)} gaps ({reasons}), {total} in all. The longest began at {listed}."


def _hours_table(labelled: Sequence[Labelled]) -> str:
    rows = []
    for hour in range(24):
        cells = []
        for one in labelled:
            found = one.hours[hour]
            cells += ["–", "–"] if found.spike_rate is None else [f"{found.spike_rate:.1%}", f"{found.rows:,}"]
        rows.append((f"{hour:02d}", *cells))
    heads = [cell for one in labelled for cell in (one.title, "rows")]
    return _table(("hour, UTC", *heads), rows)


def _raw_row(one: Raw) -> tuple[str, ...]:
    return (
        one.name,
        f"{one.records:,}",
        one.what,
        _time(one.first_ns),
        _time(one.last_ns),
        str(one.files),
        str(one.pieces),
        _duration(one.recorded_s),
        f"{one.rate:.3g}",
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M")


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_OUT, help="The file to write.")
def main(out: Path) -> None:
    try:
        text = render(*facts(lambda step: click.echo(step, err=True)))
        out.write_text(text)
    except (VolcastError, OSError) as error:
        click.echo(f"data card: {error}", err=True)
        sys.exit(1)
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()
