"""What the loader gives, and what each reader gives to the loader."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.schema import FeatureSchema
from training.problem.rows import Rows
from training.problem.schemas import window_s
from training.problem.ticks import NS_PER_S, TickSeries

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Hole:
    """A stretch of a product's time that was not recorded, or not without a break."""

    product: str
    start_ns: int  # of the last tick before
    end_ns: int  # of the first tick after
    reason: str  # sequence, reconnect, clock (pipeline/records.py); silence; cold: the file does not say more

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / NS_PER_S


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows to learn from, where they came from and what was left out on the way."""

    rows: Rows
    products: tuple[str, ...]  # by code
    files: tuple[str, ...]  # names, without folders
    sha256: str  # of the files' names and bytes
    kind: str  # ticks, features, quotes or minutes
    # "ticks": ticks, polls or minutes read; "rows": kept; "gaps": breaks; the others: dropped, by reason.
    # late_old_sequence and dead_… are of what was no tick, the others add up with "rows" to "ticks".
    counts: dict[str, int]
    gaps: tuple[Hole, ...]
    ticks: TickSeries  # all that rows and labels were made from
    tick_product: NDArray[np.int64]  # (ticks,)
    horizon_s: int
    sample_period_s: int
    notes: tuple[str, ...] = ()  # what is odd in the data but does not stop the work, a line each

    @property
    def schema(self) -> FeatureSchema:
        return self.rows.schema

    @property
    def window_s(self) -> int:
        """The longest feature window: what an embargo needs."""
        return window_s(self.rows.schema)

    def require_moves(self) -> None:
        """Raises InputError where the mid stood still in every minute to come: of such rows all are spikes, or none."""
        if not self.rows.future_volatility.any():
            low, high = self.ticks.mid.min(), self.ticks.mid.max()
            at = f"{low:.10g}" + (f" to {high:.10g}" if high > low else "")
            raise InputError(
                f"the mid never moved in the {self.horizon_s} s after any of {len(self.rows):,} rows ({at} in "
                f"{len(self.ticks):,} ticks), so no spike is told from the rest: a livelier recording is needed"
            )


@dataclass(frozen=True, slots=True)
class Columns:
    """What a reader gives: everything along the ticks, segment after segment."""

    schema: FeatureSchema
    products: tuple[str, ...]
    ticks: TickSeries
    product: NDArray[np.int64]  # (ticks,)
    features: NDArray[np.float64]  # (ticks, features)
    warm: NDArray[np.bool_]  # (ticks,)
    counts: dict[str, int]  # ticks and gaps read, dropped by reason before there were features
    gaps: tuple[Hole, ...]
    volatility: NDArray[np.float64] | None = None  # to come, (ticks,), where it is not that of the mids


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 over names and bytes, whatever the order and the folders."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda one: one.name):
        with path.open("rb") as file:
            digest.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def segments_of(product: NDArray[np.int64], starts: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Numbers the unbroken stretches: product by product, and in time order within a product; (n,).

    starts (n,) marks what begins a new stretch of its product.
    """
    segment = np.empty(len(product), np.int64)
    following = 0
    for code in np.unique(product):
        mine = product == code
        segment[mine] = following + np.cumsum(starts[mine])
        following = int(segment[mine].max()) + 1
    return segment


def holes_between(
    ticks: TickSeries, product: NDArray[np.int64], names: tuple[str, ...], reason: str | dict[int, str]
) -> tuple[Hole, ...]:
    """What lies between the segments of each product; reason: one for all, or by the later segment's number."""
    found = []
    for before, after in itertools.pairwise(ticks.spans()):
        code = product[after.start]
        if product[before.start] != code:
            continue
        why = reason if isinstance(reason, str) else reason.get(int(ticks.segment[after.start]), "reconnect")
        start, end = int(ticks.time_ns[before.stop - 1]), int(ticks.time_ns[after.start])
        found.append(Hole(names[code], start, end, why))
    return tuple(found)
