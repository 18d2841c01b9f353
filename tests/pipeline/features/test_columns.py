"""Records to columns and back, nothing lost."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given

from pipeline.features.columns import GAP, TICK, ProductCodes, TickColumns, VenueProductCodes
from pipeline.records import Gap, Record, Tick
from tests.pipeline.features.markets import markets

TICK_FIELDS = [name for name in Tick.__struct_fields__ if name not in ("product_id", "venue")]


@given(markets(max_records=30))
def test_each_field_of_each_record_is_in_its_column(records: list[Record]) -> None:
    codes = ProductCodes()
    columns = TickColumns.from_records(records, codes)
    assert len(columns) == len(records)
    for row, record in enumerate(records):
        assert codes.names[columns.product[row]] == record.product_id
        assert columns.event_time_ns[row] == record.event_time_ns
        assert columns.kind[row] == (GAP if isinstance(record, Gap) else TICK)
        if isinstance(record, Tick):
            assert [getattr(columns, name)[row] for name in TICK_FIELDS] == [getattr(record, n) for n in TICK_FIELDS]


def test_with_codes_by_venue_two_venues_may_use_one_product_name() -> None:
    tick = Tick("BTC-USD", 10, 20, 3, 1.0, 1.0, 1.0, 1.0, 1.0)
    codes = VenueProductCodes()
    records: list[Record] = [
        tick,
        msgspec.structs.replace(tick, venue="binance"),
        Gap("BTC-USD", 1, 2, "clock", 0, "binance"),
    ]
    assert TickColumns.from_records(records, codes).product.tolist() == [0, 1, 1]
    assert list(codes) == [("coinbase", "BTC-USD"), ("binance", "BTC-USD")]
    assert TickColumns.from_records(records, ProductCodes()).product.tolist() == [0, 1, 1]


def test_codes_by_product_name_the_later_venue() -> None:
    codes = ProductCodes()
    assert list(codes.of(["A", "B"], ["x", "x"])) == [0, 1]
    assert list(codes.of(["A", "C"], ["y", "y"])) == [2, 3]
    assert list(codes.of(["A", "A", "C"], ["x", "y", "x"])) == [0, 2, 4]
    assert codes.names == ["A", "B", "y:A", "C", "x:C"]


def test_codes_stay_the_same_from_batch_to_batch() -> None:
    codes = ProductCodes()
    first = [Gap(product, 0, 0, "sequence", 0) for product in ("B-USD", "A-USD")]
    second = [Gap(product, 0, 0, "sequence", 0) for product in ("C-USD", "A-USD", "B-USD")]
    assert TickColumns.from_records(first, codes).product.tolist() == [0, 1]
    assert TickColumns.from_records(second, codes).product.tolist() == [2, 1, 0]
    assert codes.names == ["B-USD", "A-USD", "C-USD"]


def test_no_records_are_empty_columns() -> None:
    assert len(TickColumns.from_records([], ProductCodes())) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("price", np.zeros(3)),
        ("price", np.zeros(2, np.float32)),
        ("bid", np.zeros((2, 1))),
        ("event_time_ns", np.zeros(2)),
        ("ask_quantity", np.zeros(4)[::2]),
    ],
)
def test_an_array_the_kernel_would_misread_is_refused(name: str, value: np.ndarray) -> None:
    records = [Tick("A-USD", 1, 0, 1, 1.0, 1.0, 1.0, 1.0, 1.0)] * 2
    with pytest.raises(ValueError, match=f"^{name}: expected contiguous"):
        dataclasses.replace(TickColumns.from_records(records, ProductCodes()), **{name: value})


def test_parts_and_selections_keep_their_rows() -> None:
    records = [Tick("A-USD", at, 5, at, 1.0, 1.0, 1.0, 1.0, float(at)) for at in range(6)]
    columns = TickColumns.from_records(records, ProductCodes())
    assert columns.part(2, 4).sequence_num.tolist() == [2, 3]
    selected = columns.select(columns.event_time_ns % 2 == 0)
    assert selected.ask_quantity.tolist() == [0.0, 2.0, 4.0]
    assert selected.ingest_time_ns.tolist() == [5, 5, 5]
