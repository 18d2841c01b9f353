"""A request that is recognized says what parsing it says."""

from __future__ import annotations

import struct
from math import nan
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import RequestError
from common.schema import CORE_1
from server.core.requests import PredictInput
from server.core.rows import PackedInput
from server.rpc.inference import read_predict
from server.wire.response import varint
from server.wire.templates import MAX_PREFIX_BYTES, MAX_ROWS, TemplateCache, frame_parts
from volcast.v1 import DATA_TYPE_FLOAT64, ModelSelector, PackedRows, PredictRequest, StreamPredictRequest

WIDTH = len(CORE_1)


def field(number: int, body: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    return varint(number << 3 | 2) + varint(len(body)) + body


values = st.one_of(
    st.lists(st.floats(width=64), min_size=1, max_size=3).map(lambda row: np.array(row, "<f8").tobytes()),
    st.sampled_from([b"", b"\x78\x00" * 8, b"\x0a\x00" * 4, b"\x22\x08\x22\x06\x22\x04\x22\x02", b"A" * 8]),
)
schemas = st.sampled_from([CORE_1.hash, "", "other"])
packed_pieces = st.one_of(
    schemas.map(lambda text: field(1, text.encode())),
    st.integers(0, 3).map(lambda number: b"\x10" + varint(number)),
    st.sampled_from([0, 1, 2, 3, 2000]).map(lambda number: b"\x18" + varint(number)),
    values.map(lambda body: field(4, body)),
    st.lists(st.integers(0, 300), max_size=2).map(lambda times: field(5, b"".join(map(varint, times)))),
    st.just(field(6, b"BTC-USD")),
    st.sampled_from([b"\x78\x00", field(15, b"A" * 8), b""]),
)
packed = st.lists(packed_pieces, max_size=8).map(b"".join)
pieces = st.one_of(
    packed.map(lambda body: field(3, body)),
    packed.map(lambda body: field(3, body)),
    st.sampled_from([b"\x0a\x00", field(1, field(1, b"volatility")), field(1, field(3, b"canary"))]),
    st.sampled_from([field(2, b""), field(2, field(1, b""))]),
    st.sampled_from([field(4, b""), field(4, b"key"), field(4, b"A" * 8)]),
    st.sampled_from([0.0, -0.0, 2.5, nan]).map(lambda size: b"\x29" + struct.pack("<d", size)),
    st.sampled_from([0.0, 3.0]).map(lambda multiple: b"\x31" + struct.pack("<d", multiple)),
    st.lists(st.floats(0, 1), max_size=2).map(lambda levels: field(7, struct.pack(f"<{len(levels)}d", *levels))),
    st.just(b"\x39" + struct.pack("<d", 0.5)),  # a level that is not packed
    st.sampled_from([b"\x78\x00" * 8, field(15, b"A" * 8), field(15, b""), b"\x7b\x7c", b"\x79" + bytes(8)]),
)
requests = st.lists(pieces, min_size=1, max_size=4).map(b"".join)


def parsed(raw: bytes) -> PredictInput | None:
    try:
        return read_predict(raw)
    except RequestError:
        return None


def recognized(templates: TemplateCache, raw: bytes) -> PredictInput | None:
    template = templates.match(raw)
    if template is None:
        return None
    rows = PackedInput(template.schema_hash, template.data_type, template.rows, raw[template.values])
    return PredictInput(rows, template.selection, "", template.query)


def scored(request: PredictInput | None) -> PredictInput | None:
    """A parsed request without the counts of its times and products, which no model reads."""
    if request is None or not isinstance(request.rows, PackedInput):
        return request
    for count in (request.rows.event_times, request.rows.product_ids):
        assert count in (0, request.rows.row_count)
    return msgspec.structs.replace(request, rows=msgspec.structs.replace(request.rows, event_times=0, product_ids=0))


def plain(rows: int = 1, **changes: Any) -> bytes:
    matrix = np.arange(rows * WIDTH, dtype="<f8")
    fields: dict[str, Any] = {"schema_hash": CORE_1.hash, "data_type": 2, "row_count": rows, "values": matrix.tobytes()}
    return PredictRequest(packed=PackedRows(**{**fields, **changes})).SerializeToString()


def learned(templates: TemplateCache, raw: bytes) -> None:
    request = parsed(raw)
    if request is not None:
        templates.learn(raw, request, read_predict)


@given(st.lists(requests, min_size=1, max_size=6), st.data())
def test_whatever_is_recognized_is_what_parsing_gives(messages: list[bytes], data: st.DataObject) -> None:
    templates = TemplateCache()
    for raw in messages:
        learned(templates, raw)
    for raw in messages:
        changed = bytearray(raw)
        for at in data.draw(st.lists(st.integers(0, max(0, len(raw) - 1)), max_size=4)):
            if changed:
                changed[at] = data.draw(st.integers(0, 255))
        for message in (raw, bytes(changed)):
            values = recognized(templates, message)
            assert values is None or values == scored(parsed(message))


@given(st.integers(1, 20), st.sampled_from([None, ModelSelector(name="volatility"), ModelSelector(label="canary")]))
def test_other_values_of_a_known_form_are_recognized(rows: int, model: ModelSelector | None) -> None:
    templates = TemplateCache()
    request = PredictRequest.FromString(plain(rows))
    if model is not None:
        request.model.CopyFrom(model)
    learned(templates, request.SerializeToString())
    request.packed.values = np.random.default_rng(rows).random(rows * WIDTH).tobytes()
    raw = request.SerializeToString()
    assert recognized(templates, raw) == parsed(raw) is not None


NOW_NS = 1_764_000_000_000_000_000


@given(
    st.integers(1, 20),
    st.lists(st.sampled_from([0, 1, 127, 128, NOW_NS, 2**63 - 1]), min_size=1, max_size=3),
    st.sampled_from([(), ("BTC-USD",), ("BTC-USD", "DOGE-USD")]),
    st.booleans(),
)
def test_times_and_products_may_change_behind_the_values(
    count: int, times: list[int], products: tuple[str, ...], with_times: bool
) -> None:
    def message(seed: int, shift: int) -> bytes:
        random = np.random.default_rng(seed)
        rows = PackedRows(schema_hash=CORE_1.hash, data_type=DATA_TYPE_FLOAT64, row_count=count)
        rows.values = random.random(count * WIDTH).tobytes()
        if with_times:
            rows.event_times_ns.extend(times[row % len(times)] ^ shift for row in range(count))
        if products:
            rows.product_ids.extend(products[row % len(products)] for row in range(count))
        return PredictRequest(packed=rows).SerializeToString()

    templates = TemplateCache()
    learned(templates, message(1, 0))
    assert templates.by_length
    other = message(2, 1)
    values = recognized(templates, other)
    assert values == scored(parsed(other)) or (values is None and with_times and 0 in times)


@pytest.mark.parametrize("at", range(-40, 0))
def test_a_tail_with_a_wrong_tag_or_length_is_not_recognized_as_what_it_is_not(at: int) -> None:
    templates = TemplateCache()
    whole = plain(rows=2, event_times_ns=[NOW_NS, NOW_NS + 1], product_ids=["BTC-USD", "ETH-USD"])
    learned(templates, whole)
    assert recognized(templates, whole) is not None
    for byte in range(256):
        changed = bytearray(whole)
        changed[at] = byte
        values = recognized(templates, bytes(changed))
        assert values is None or values == scored(parsed(bytes(changed)))


@pytest.mark.parametrize(
    "raw",
    [
        plain() + field(4, b"key"),
        plain(event_times_ns=[-1]),
        plain(product_ids=["Ⓑ"]),
        plain(event_times_ns=[1]) + b"\x2a\x01\x05",
        plain(rows=1024, product_ids=["x" * 40] * 1024),
        plain(rows=1025),
        plain() + b"\x78\x01",
        plain()[:-1],
    ],
)
def test_what_is_more_than_rows_of_one_schema_is_not_remembered(raw: bytes) -> None:
    templates = TemplateCache()
    learned(templates, raw)
    assert not templates.by_length


def test_a_message_that_ends_like_its_values_by_chance_is_taken_as_it_is() -> None:
    templates, tail = (
        TemplateCache(),
        b"\x78\x00" * (4 * WIDTH),
    )  # unknown fields, which other bytes in their place would break
    learned(templates, plain(values=tail) + tail)
    assert not templates.by_length


@pytest.mark.parametrize("tail", [b"", field(6, b"BTC-USD")])
def test_values_repeated_in_an_unknown_field_teach_no_template(tail: bytes) -> None:
    """The unknown field ends the message, so its bytes look like the values; only parsing with other bytes shows."""
    raw = plain()
    values = raw[-8 * WIDTH :]
    message = raw + field(15, values) + tail
    assert parsed(message) == parsed(raw)
    templates = TemplateCache()
    learned(templates, message)
    assert not templates.by_length
    assert recognized(templates, message) is None


def test_values_repeated_in_an_unknown_field_of_the_rows_teach_no_template() -> None:
    body = PredictRequest.FromString(plain()).packed.SerializeToString()
    message = field(3, body + field(15, body[-8 * WIDTH :]))
    assert scored(parsed(message)) == scored(parsed(plain()))
    templates = TemplateCache()
    learned(templates, message)
    assert not templates.by_length


@pytest.mark.parametrize(("rows", "known"), [(1, True), (MAX_ROWS - 1, True), (MAX_ROWS, True), (MAX_ROWS + 1, False)])
def test_requests_of_up_to_1024_rows_teach_a_template(rows: int, known: bool) -> None:
    assert MAX_ROWS == 1024
    templates = TemplateCache()
    learned(templates, plain(rows))
    assert bool(templates.by_length) is known


@pytest.mark.parametrize(("excess", "known"), [(0, True), (1, False)])
def test_a_prefix_of_up_to_1024_bytes_teaches_a_template(excess: int, known: bool) -> None:
    def message(name: str) -> bytes:
        request = PredictRequest.FromString(plain())
        request.model.name = name
        return request.SerializeToString()

    overhead = len(message("x" * 900)) - 8 * WIDTH - 900  # both lengths of the name take two bytes
    raw = message("x" * (MAX_PREFIX_BYTES - overhead + excess))
    assert len(raw) - 8 * WIDTH == MAX_PREFIX_BYTES + excess
    templates = TemplateCache()
    learned(templates, raw)
    assert bool(templates.by_length) is known


@given(st.integers(0, 2**63 - 1), requests)
def test_a_frame_is_its_id_and_a_request(frame_id: int, raw: bytes) -> None:
    head = b"" if not frame_id else b"\x08" + varint(frame_id)
    id_end, at = frame_parts(head + field(2, raw))
    assert (head + field(2, raw))[:id_end] == head
    assert (head + field(2, raw))[at:] == raw


@given(st.binary(max_size=30))
def test_bytes_taken_for_a_frame_are_one(raw: bytes) -> None:
    id_end, at = frame_parts(raw)
    if at:
        assert raw[id_end] == 0x12
        frame = StreamPredictRequest()
        frame.MergeFromString(raw[:id_end] + b"\x12\x00")  # the id alone
        assert frame.HasField("request")


def test_known_forms_are_few() -> None:
    templates = TemplateCache()
    for rows in range(1, 100):
        learned(templates, plain(rows))
    assert len(templates.by_length) <= 32


def asking(rows: int = 1, seed: int = 0, product: str = "", **query: Any) -> bytes:
    """A request with a query."""
    matrix = np.random.default_rng(seed).random(rows * WIDTH)
    changes: dict[str, Any] = {"values": matrix.tobytes(), "product_ids": [product] * rows if product else []}
    request = PredictRequest.FromString(plain(rows, **changes))
    request.MergeFrom(PredictRequest(**query))
    return request.SerializeToString()


@given(
    st.integers(1, 4),
    st.sampled_from(["", "BTC-USD"]),
    st.sampled_from([{}, {"spike_bps": 2.5}, {"spike_multiple": 3.0}]),
    st.lists(st.floats(0.01, 0.99), max_size=16),
)
def test_a_query_behind_the_rows_is_recognized(
    rows: int, product: str, size: dict[str, float], levels: list[float]
) -> None:
    templates = TemplateCache()
    learned(templates, asking(rows, 1, product, **size, quantiles=levels))
    other = asking(rows, 2, product.replace("BTC", "ETH"), **size, quantiles=levels)
    assert recognized(templates, other) == scored(parsed(other)) is not None


def test_queries_of_one_length_have_a_template_each() -> None:
    templates, sizes = TemplateCache(), [1.0 + number for number in range(16)]
    for size in sizes:
        learned(templates, asking(spike_bps=size))
    for size in sizes:
        request = recognized(templates, asking(seed=9, spike_bps=size))
        assert request is not None
        assert request.query.spike_bps == size
    assert recognized(templates, asking(spike_bps=99.0)) is None


def test_known_queries_are_few() -> None:
    templates = TemplateCache()
    for number in range(100):
        learned(templates, asking(spike_bps=1.0 + number))
        assert sum(len(queries.by_query) for queries in templates.by_length.values()) <= 16


@pytest.mark.parametrize("query", [{"spike_bps": 2.5}, {"spike_multiple": 3.0}, {"quantiles": [0.25, 0.5]}])
def test_another_query_is_not_taken_for_a_known_one(query: dict[str, Any]) -> None:
    templates, whole = TemplateCache(), asking(rows=2, product="BTC-USD", **query)
    learned(templates, whole)
    for at in range(-24, 0):
        for byte in (0, 1, 63, 64, 127, 128, 255):
            changed = bytearray(whole)
            changed[at] = byte
            known = recognized(templates, bytes(changed))
            assert known is None or known == scored(parsed(bytes(changed)))
