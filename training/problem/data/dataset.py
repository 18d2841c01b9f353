"""The result of the loader, and the result of each reader."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.schema import FeatureSchema
from pipeline.archive import RecordingFormat
from pipeline.features.columns import TickColumns
from training.problem.forecast_rows import ForecastRows
from training.problem.target import NS_PER_S, Floats, Ints, Target, spans

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ticks:
    """Accepted ticks (n,), segment after segment, in time order within a segment.

    A segment is an unbroken stretch of one product. Segments of a product are numbered in time order.
    """

    time_ns: Ints
    mid: Floats
    segment: Ints
    product: Ints

    def __len__(self) -> int:
        return len(self.time_ns)

    def spans(self) -> list[slice]:
        """The ticks of each segment, in order."""
        return spans(self.segment)


@dataclass(frozen=True, slots=True)
class RecordedTicks:
    """The records of a recording in the order of their arrival. products: by the code of TickColumns.product."""

    columns: TickColumns
    products: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hole:
    """A break between two segments of a product."""

    product: str
    start_ns: int  # of the last tick before
    end_ns: int  # of the first tick after
    reason: str  # of a Gap (pipeline/records.py); "cold": a feature file gives no reason

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / NS_PER_S


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows to learn from, their source, and what was dropped on the way."""

    rows: ForecastRows
    paths: tuple[Path, ...]
    sha256: str  # of the files' names and bytes
    kind: str  # "ticks", "quotes" or "features"; joined by "+" if there are several
    gaps: tuple[Hole, ...]
    ticks: Ticks  # everything that features and outcomes were computed from
    target: Target
    sample_period_s: int
    formats: tuple[RecordingFormat, ...]  # how each flat recording was read
    recorded: tuple[RecordedTicks, ...]  # by number in rows.recordings; () if there is a feature file

    @property
    def schema(self) -> FeatureSchema:
        return self.rows.schema

    @property
    def products(self) -> tuple[str, ...]:
        return self.rows.products

    @property
    def files(self) -> tuple[str, ...]:
        """Names without folders, sorted."""
        return tuple(sorted(path.name for path in self.paths))

    @property
    def counts(self) -> Mapping[str, int]:
        """ "ticks" read, "gaps", "rows" kept; the other counts are of dropped ticks, by reason."""
        return self.rows.counts

    @property
    def notes(self) -> tuple[str, ...]:
        """Features without any variation, a line each."""
        low, high = self.rows.features.min(axis=0), self.rows.features.max(axis=0)
        return tuple(
            f"feature {name}: {low[number]:g} in all {len(self.rows)} rows"
            for number, name in enumerate(self.schema.names)
            if low[number] == high[number]
        )

    def require_moves(self) -> None:
        """Raises InputError if every outcome lies at the floor: there is nothing to forecast."""
        if not (self.rows.outcome_bps > self.target.floor_bps).any():
            raise InputError(
                f"the mid never moved in the {self.target.horizon_s} s after any of {len(self.rows):,} rows "
                f"({self.ticks.mid.min():.10g} to {self.ticks.mid.max():.10g} in {len(self.ticks):,} ticks): "
                "a livelier recording is needed"
            )


@dataclass(frozen=True, slots=True)
class Columns:
    """A reader's result: columns along the ticks (n,)."""

    kind: str
    products: tuple[str, ...]
    ticks: Ticks
    features: Floats  # (ticks, features)
    warm: NDArray[np.bool_]
    counts: dict[str, int]  # ticks and gaps read; ticks that were dropped before the features, by reason
    gaps: tuple[Hole, ...]
    formats: tuple[RecordingFormat, ...] = ()
    recorded: RecordedTicks | None = None  # None: a feature file


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 over names and bytes. Order and folders do not matter."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda each: each.name):
        with path.open("rb") as file:
            digest.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def segments_of(product: Ints, starts: NDArray[np.bool_]) -> Ints:
    """Numbers the unbroken stretches (n,): product by product, in time order within a product.

    starts (n,) marks the beginning of a new stretch of its product.
    """
    segment = np.empty(len(product), np.int64)
    following = 0
    for code in np.unique(product):
        places = product == code
        segment[places] = following + np.cumsum(starts[places])
        following = int(segment[places].max()) + 1
    return segment


def holes_between(ticks: Ticks, names: tuple[str, ...], reasons: Mapping[int, str], default: str) -> tuple[Hole, ...]:
    """The breaks between the segments of each product. reasons: number of the later segment -> reason."""
    holes = []
    for before, after in itertools.pairwise(ticks.spans()):
        code = ticks.product[after.start]
        if ticks.product[before.start] == code:
            reason = reasons.get(int(ticks.segment[after.start]), default)
            start_ns, end_ns = int(ticks.time_ns[before.stop - 1]), int(ticks.time_ns[after.start])
            holes.append(Hole(names[code], start_ns, end_ns, reason))
    return tuple(holes)
