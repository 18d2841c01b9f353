"""Records encoded as arrays are what the generated protobuf code reads."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.stream import codec
from volcast.v1 import FeatureRow, Prediction

int64 = st.integers(-(2**63), 2**63 - 1)
names = st.text(min_size=0, max_size=200)


@given(names, names, st.integers(1, 300), st.data())
def test_feature_rows_parse_back_to_the_same_values(venue: str, product: str, width: int, data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 5))
    columns = {
        name: data.draw(hnp.arrays(np.int64, rows)) for name in ("event_time_ns", "ingest_time_ns", "sequence_num")
    }
    values = data.draw(hnp.arrays(np.float64, (rows, width)))
    warm = data.draw(hnp.arrays(np.bool_, rows))
    offsets, quotes = data.draw(hnp.arrays(np.int64, rows)), data.draw(hnp.arrays(np.float64, (3, rows)))
    layout = codec.feature_rows(venue, product, "abcdefabcdef", width)
    messages = layout.encode(
        rows,
        values=values,
        warm=warm,
        source_partition=7,
        source_offset=offsets,
        bid=quotes[0],
        ask=quotes[1],
        imbalance=quotes[2],
        **columns,
    )
    assert len(messages) == rows
    for i, message in enumerate(messages):
        row = FeatureRow.FromString(message)
        assert (row.product_id, row.schema_hash, row.warm) == (product, "abcdefabcdef", warm[i])
        assert [row.event_time_ns, row.ingest_time_ns, row.sequence_num] == [column[i] for column in columns.values()]
        assert np.array_equal(np.array(row.values), values[i], equal_nan=True)
        assert (row.venue, row.source_partition, row.source_offset) == (venue, 7, offsets[i])
        assert np.array_equal([row.bid, row.ask, row.imbalance], quotes[:, i], equal_nan=True)


@given(names, names, names, int64, st.floats(0, 1), st.floats(0, 1), int64)
def test_predictions_parse_back_to_the_same_values(
    product: str, model: str, version: str, number: int, probability: float, threshold: float, latency: int
) -> None:
    layout = codec.predictions("binance", product, model, version)
    (message,) = layout.encode(
        1,
        event_time_ns=number,
        sequence_num=number,
        probability=np.array([probability]),
        threshold=threshold,
        latency_ns=np.array([latency]),
        source_partition=np.array([3]),
        source_offset=np.array([number]),
        bid=np.array([probability]),
        ask=np.array([threshold]),
        imbalance=np.array([-probability]),
    )
    assert Prediction.FromString(message) == Prediction(
        product_id=product,
        event_time_ns=number,
        sequence_num=number,
        model_name=model,
        model_version=version,
        probability=probability,
        threshold=threshold,
        latency_ns=latency,
        source_partition=3,
        source_offset=number,
        venue="binance",
        bid=probability,
        ask=threshold,
        imbalance=-probability,
    )


LEVELS = st.lists(st.floats(0.01, 0.99), max_size=16, unique=True).map(sorted).map(tuple)


@given(names, LEVELS, st.data())
def test_distributions_parse_back_to_the_same_values(
    product: str, levels: tuple[float, ...], data: st.DataObject
) -> None:
    rows = data.draw(st.integers(0, 5))
    medians, quantiles = data.draw(hnp.arrays(np.float64, rows)), data.draw(hnp.arrays(np.float64, (rows, len(levels))))
    layout = codec.predictions("binance", product, "m", "1", levels)
    columns = {"quantile_bps": quantiles} if levels else {}
    messages = layout.encode(
        rows, event_time_ns=1, sequence_num=2, probability=0.5, threshold=0.25, latency_ns=3, source_partition=4,
        source_offset=5, bid=6, ask=7, imbalance=0.5, spike_bps=2.5, median_bps=medians, base_rate=0.125, **columns,
    )  # fmt: skip
    assert len(messages) == rows
    for i, message in enumerate(messages):
        prediction = Prediction.FromString(message)
        assert (prediction.spike_bps, prediction.base_rate, prediction.imbalance) == (2.5, 0.125, 0.5)
        assert np.array_equal([prediction.median_bps], medians[i : i + 1], equal_nan=True)
        assert tuple(prediction.quantile_levels) == levels
        assert np.array_equal(np.array(prediction.quantile_bps), quantiles[i], equal_nan=True)


def test_a_distribution_is_byte_for_byte_what_protobuf_writes() -> None:
    fields = {
        "event_time_ns": 1, "sequence_num": 2, "probability": 0.5, "threshold": 0.25, "latency_ns": 3,
        "source_partition": 4, "source_offset": 5, "bid": 6.0, "ask": 7.0, "imbalance": 0.5, "spike_bps": 2.5,
        "median_bps": 1.5, "quantile_bps": [1.0, 2.0], "base_rate": 0.125,
    }  # fmt: skip
    (message,) = codec.predictions("coinbase", "BTC-USD", "m", "1", (0.25, 0.75)).encode(1, **fields)
    names_of_record = {"product_id": "BTC-USD", "model_name": "m", "model_version": "1", "venue": "coinbase"}
    built = Prediction(**names_of_record, quantile_levels=[0.25, 0.75], **fields)  # type: ignore[arg-type]
    assert message == built.SerializeToString()


def test_a_batch_of_warm_rows_is_byte_for_byte_what_protobuf_writes() -> None:
    values = np.linspace(0, 1, 22).reshape(2, 11)
    layout = codec.feature_rows("coinbase", "BTC-USD", "abcdefabcdef", 11)
    messages = layout.encode(
        2, event_time_ns=[1, 2], ingest_time_ns=[3, 4], sequence_num=[5, 6], values=values, warm=True,
        source_partition=1, source_offset=[8, 9], bid=[1.5, 2.5], ask=[3.5, 4.5], imbalance=[0.5, -0.5],
    )  # fmt: skip
    built = [
        FeatureRow(
            product_id="BTC-USD",
            event_time_ns=1 + i,
            ingest_time_ns=3 + i,
            sequence_num=5 + i,
            schema_hash="abcdefabcdef",
            values=values[i],
            warm=True,
            source_partition=1,
            source_offset=8 + i,
            venue="coinbase",
            bid=1.5 + i,
            ask=3.5 + i,
            imbalance=0.5 - i,
        ).SerializeToString()
        for i in range(2)
    ]
    assert messages == built
