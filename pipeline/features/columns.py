"""Ticks as columns: what the feature engine reads."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.records import Gap, Record, Tick

TICK = 0
GAP = 1


class Codes(Protocol):
    """Numbers of products."""

    def of(self, product_ids: Sequence[str], venues: Sequence[str]) -> Iterable[int]:
        """The code of each product."""
        ...


class ProductCodes(dict[str, int]):
    """Products numbered 0, 1, 2 … in the order they are first seen: `codes["BTC-USD"]` knows or learns.

    Two venues may use one product name. The product of the venue that is seen later is then named VENUE:PRODUCT.
    """

    def __init__(self) -> None:
        super().__init__()
        self._only_venue: str | None = None  # of all records so far
        self._instruments: dict[tuple[str, str], str] | None = None  # venue and product -> name; None: a single venue

    def __missing__(self, name: str) -> int:
        code = len(self)
        self[name] = code
        return code

    @property
    def names(self) -> list[str]:
        """Products by code."""
        return list(self)

    def of(self, product_ids: Sequence[str], venues: Sequence[str]) -> Iterable[int]:
        if self._instruments is None:
            present = set(venues)
            if self._only_venue is None and len(present) == 1:
                self._only_venue = next(iter(present))
            if present <= {self._only_venue}:
                return map(self.__getitem__, product_ids)  # nearly always
            self._instruments = {(self._only_venue or "", name): name for name in self}
        return [self[self.name_of(venue, product)] for venue, product in zip(venues, product_ids, strict=True)]

    def name_of(self, venue: str, product_id: str) -> str:
        """The name under which a venue's product is numbered."""
        if self._instruments is None:
            return product_id
        name = self._instruments.get((venue, product_id))
        if name is None:
            name = f"{venue}:{product_id}" if product_id in self else product_id
            self._instruments[venue, product_id] = name
        return name


class VenueProductCodes(dict[tuple[str, str], int]):
    """Pairs of venue and product, numbered in the order they are first seen."""

    def __missing__(self, instrument: tuple[str, str]) -> int:
        code = len(self)
        self[instrument] = code
        return code

    def of(self, product_ids: Sequence[str], venues: Sequence[str]) -> Iterable[int]:
        return map(self.__getitem__, zip(venues, product_ids, strict=True))


@dataclass(frozen=True, slots=True)
class TickColumns:
    """n records in the order they came, one contiguous array (n,) a column.

    A gap uses `product`, `kind` and its times; its other columns are zero. Raises ValueError where an
    array is of another type or length: the kernel trusts its input.
    """

    product: NDArray[np.int32]  # code, >= 0
    kind: NDArray[np.uint8]  # TICK or GAP
    event_time_ns: NDArray[np.int64]
    sequence_num: NDArray[np.int64]
    price: NDArray[np.float64]
    bid: NDArray[np.float64]
    ask: NDArray[np.float64]
    bid_quantity: NDArray[np.float64]
    ask_quantity: NDArray[np.float64]
    ingest_time_ns: NDArray[np.int64]

    def __post_init__(self) -> None:
        rows = self.product.shape[:1]
        for name, dtype in _DTYPES:
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != rows or not column.flags.c_contiguous:
                raise ValueError(
                    f"{name}: expected contiguous {dtype} of shape {rows}, got {column.dtype} of shape {column.shape}"
                )

    def __len__(self) -> int:
        return len(self.product)

    def part(self, start: int, stop: int) -> TickColumns:
        """Records start…stop, without a copy."""
        return TickColumns(*(getattr(self, name)[start:stop] for name, _ in _DTYPES))

    def select(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> TickColumns:
        """The records where the mask (n,) holds, or those at the places given, copied."""
        return TickColumns(*(getattr(self, name)[which] for name, _ in _DTYPES))

    @classmethod
    def joined(cls, parts: Sequence[TickColumns]) -> TickColumns:
        """All records one after another, copied. Raises ValueError for no part."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name, _ in _DTYPES))

    @classmethod
    def from_records(cls, records: Sequence[Record], codes: Codes) -> TickColumns:
        kinds: Any = list(map(type, records))
        gaps = kinds.count(Gap)
        ticks: Any = [_as_tick(record) if type(record) is Gap else record for record in records] if gaps else records
        # A first pass makes tuples, a second pass turns them, and array.array reads each column in C: a third of the
        # time of a comprehension per column with np.array on it (benchmarks/features.py).
        columns = tuple(zip(*map(msgspec.structs.astuple, ticks), strict=True)) or ((),) * len(Tick.__struct_fields__)
        products, event_times, ingest_times, sequences, price, bid, ask, bid_quantity, ask_quantity, venues = columns
        kind = np.array([each is Gap for each in kinds], np.uint8) if gaps else np.zeros(len(kinds), np.uint8)
        return cls(
            np.frombuffer(array("i", codes.of(products, venues)), np.int32),
            kind,
            np.frombuffer(array("q", event_times), np.int64),
            np.frombuffer(array("q", sequences), np.int64),
            np.frombuffer(array("d", price), np.float64),
            np.frombuffer(array("d", bid), np.float64),
            np.frombuffer(array("d", ask), np.float64),
            np.frombuffer(array("d", bid_quantity), np.float64),
            np.frombuffer(array("d", ask_quantity), np.float64),
            np.frombuffer(array("q", ingest_times), np.int64),
        )


def sound(columns: TickColumns) -> NDArray[np.bool_]:
    """Which records (n,) the engine may see. The feeds have checked theirs; anyone may write to the topic."""
    good: NDArray[np.bool_] = columns.kind == GAP
    good |= (
        (columns.price > 0)
        & (columns.price < np.inf)
        & (columns.bid > 0)
        & (columns.bid <= columns.ask)
        & (columns.ask < np.inf)
        & (columns.bid_quantity >= 0)
        & (columns.bid_quantity < np.inf)
        & (columns.ask_quantity >= 0)
        & (columns.ask_quantity < np.inf)
    )
    return good


def _as_tick(gap: Gap) -> Tick:
    return Tick(gap.product_id, gap.event_time_ns, gap.ingest_time_ns, 0, 0.0, 0.0, 0.0, 0.0, 0.0, gap.venue)


_DTYPES = (
    ("product", np.dtype(np.int32)),
    ("kind", np.dtype(np.uint8)),
    ("event_time_ns", np.dtype(np.int64)),
    ("sequence_num", np.dtype(np.int64)),
    ("price", np.dtype(np.float64)),
    ("bid", np.dtype(np.float64)),
    ("ask", np.dtype(np.float64)),
    ("bid_quantity", np.dtype(np.float64)),
    ("ask_quantity", np.dtype(np.float64)),
    ("ingest_time_ns", np.dtype(np.int64)),
)
