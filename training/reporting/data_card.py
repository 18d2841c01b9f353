"""Writes docs/data_card.md from the recordings themselves, so that its figures are never out of date.

python -m training.reporting.data_card [--out docs/data_card.md]
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
from jinja2 import Environment, PackageLoader, StrictUndefined

from common.errors import InputError, VolcastError
from pipeline.archive import read_archive
from pipeline.datasets import DATA_DIR, binance_l1, coinbase_ticker_2026
from pipeline.records import Gap, Tick
from training.problem.data import Dataset, Hole, load
from training.problem.recordings import known_recordings
from training.problem.target import DEFAULT_TARGET, NS_PER_S
from training.reporting.explore.figures import explore
from training.reporting.explore.page import dropped, period_cells
from training.reporting.explore.result import Exploration

DEFAULT_OUT = Path(__file__).resolve().parents[2] / "docs" / "data_card.md"
LONGEST_GAPS = 6
ABOUT = {
    "quotes 2021": "BTC quotes of a dealer, polled about every 5 s, with the crash of 19 May. The spreads of 7 to 34 "
    "bps are the dealer's, not the market's.",
    "mids of December": "BTC-USD mids of a decentralized exchange at 1 Hz. They have no spread and no quantities.",
    "perpetual of November": "Quotes of a BTC perpetual at 1 Hz, without quantities.",
    "ticks of December": "Ticker messages of BTC-USD of Coinbase with best bid, best ask and quantities. Times are the "
    "recorder's times of receipt.",
}


@dataclass(frozen=True, slots=True)
class Raw:
    """Counts and spans of a recording. Nothing is computed from its prices."""

    name: str
    products: tuple[str, ...]
    files: int
    ticks: int
    first_ns: int
    last_ns: int
    pieces: int  # unbroken
    recorded_s: float  # of the pieces


@dataclass(frozen=True, slots=True)
class Section:
    """A recording that models are developed on."""

    name: str
    about: str
    found: Exploration
    counts: Mapping[str, int]
    dropped: str
    gaps: str
    days: tuple[tuple[str, ...], ...]


def facts(progress: Callable[[str], None]) -> tuple[list[Section], list[Raw]]:
    """Raises InputError if a recording is not on this machine."""
    recordings = known_recordings()
    if {each.name for each in recordings} != set(ABOUT):
        raise InputError(f"the recordings are not here: set {DATA_DIR} or put them at ../shared/data")
    sections, raws = [], []
    for recording in recordings:
        progress(recording.name)
        dataset = load(recording.files, options=recording.options, progress=progress)
        sections.append(section_of(recording.name, ABOUT[recording.name], dataset))
        raws.append(_raw_of(recording.name, dataset))
    for name, paths in (("ticks of April 2026", coinbase_ticker_2026()), ("Binance, August 2024", binance_l1())):
        progress(name)
        if paths:
            raws.append(raw_recording(name, paths))
    return sections, raws


def section_of(name: str, about: str, dataset: Dataset) -> Section:
    exploration = explore(dataset)
    days = tuple(period_cells(day) for day in exploration.days)
    return Section(name, about, exploration, dataset.counts, dropped(exploration), gaps_text(dataset.gaps), days)


def raw_recording(name: str, paths: Sequence[Path]) -> Raw:
    pieces: list[tuple[int, int]] = []
    current: dict[str, int] = {}  # product -> its last piece
    ticks = 0
    for record in read_archive(paths):
        match record:
            case Gap():
                current.pop(record.product_id, None)
            case Tick():
                ticks += 1
                time_ns = record.event_time_ns
                if record.product_id not in current:
                    current[record.product_id] = len(pieces)
                    pieces.append((time_ns, time_ns))
                piece = current[record.product_id]
                pieces[piece] = (pieces[piece][0], time_ns)
    return _raw(name, tuple(sorted(current)), len(paths), ticks, pieces)


def _raw_of(name: str, dataset: Dataset) -> Raw:
    times = dataset.ticks.time_ns
    pieces = [(int(times[span.start]), int(times[span.stop - 1])) for span in dataset.ticks.spans()]
    return _raw(name, dataset.products, len(dataset.files), len(times), pieces)


def _raw(name: str, products: tuple[str, ...], files: int, ticks: int, pieces: Sequence[tuple[int, int]]) -> Raw:
    recorded_s = sum(last - first for first, last in pieces) / NS_PER_S
    first_ns, last_ns = min(first for first, _ in pieces), max(last for _, last in pieces)
    return Raw(name, products, files, ticks, first_ns, last_ns, len(pieces), recorded_s)


def gaps_text(gaps: Sequence[Hole]) -> str:
    """Number, reasons and lengths of gaps, in words."""
    if not gaps:
        return "none."
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(Counter(gap.reason for gap in gaps).items()))
    longest = sorted(gaps, key=lambda gap: (-gap.seconds, gap.start_ns))[:LONGEST_GAPS]
    listed = "; ".join(f"{_time(gap.start_ns)}, {_duration(gap.seconds)}" for gap in longest)
    return f"{len(gaps)} ({reasons}). The longest began at {listed}."


def render(sections: Sequence[Section], raws: Sequence[Raw]) -> str:
    """The card in Markdown."""
    environment = Environment(
        loader=PackageLoader("training.reporting"),
        autoescape=False,  # Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "time": _time,
        "duration": _duration,
        "digits": lambda value: f"{value:.3g}",
        "percent": lambda share: f"q{100 * share:g}",
    }
    return environment.get_template("data_card.md").render(
        sections=sections, raws=raws, horizon_s=DEFAULT_TARGET.horizon_s, step_s=DEFAULT_TARGET.step_s
    )


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
