from __future__ import annotations

import math
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from common.errors import RequestError, SchemaMismatchError
from common.rpc_status import to_status
from common.schema import CORE_1, FeatureSchema
from server.core.arrays import Matrix
from server.core.rows import DTYPES, MAX_VIOLATIONS, NamedInput, PackedInput
from tests.server.bundles import WIDTH, named, rows
from volcast.v1 import DATA_TYPE_FLOAT32, DATA_TYPE_FLOAT64

MAX_ROWS = 8


def packed(matrix: Any, **changes: Any) -> PackedInput:
    fields = {
        "schema_hash": CORE_1.hash,
        "data_type": DATA_TYPE_FLOAT64,
        "row_count": len(matrix),
        "values": np.asarray(matrix, "<f8").tobytes(),
    }
    return PackedInput(**{**fields, **changes})


def faults(request: PackedInput | NamedInput) -> dict[str, str]:
    with pytest.raises(RequestError) as raised:
        request.to_matrix(CORE_1, MAX_ROWS)
    return {violation.field: violation.description for violation in raised.value.violations}


def test_the_data_types_are_those_of_the_contract() -> None:
    assert {DATA_TYPE_FLOAT32: np.dtype("<f4"), DATA_TYPE_FLOAT64: np.dtype("<f8")} == DTYPES


def test_packed_float64_is_a_view_of_the_requests_bytes() -> None:
    request = packed(rows(3))
    matrix = request.to_matrix(CORE_1, MAX_ROWS)
    assert_array_equal(matrix, rows(3))
    assert np.shares_memory(matrix, np.frombuffer(request.values, "<f8"))


def test_packed_float32_widens_exactly() -> None:
    narrow = rows(3).astype("<f4")
    request = packed(rows(3), data_type=DATA_TYPE_FLOAT32, values=narrow.tobytes())
    matrix = request.to_matrix(CORE_1, MAX_ROWS)
    assert matrix.dtype == np.float64
    assert_array_equal(matrix, narrow.astype(np.float64))


@given(st.integers(1, MAX_ROWS), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_packed_and_named_rows_give_the_same_matrix_whatever_the_order_of_names(
    count: int, seed: int, shuffler: Any
) -> None:
    matrix = rows(count, seed)
    shuffled = []
    for row in matrix:
        items = list(named(row).items())
        shuffler.shuffle(items)
        shuffled.append(dict(items))
    assert_array_equal(NamedInput(shuffled).to_matrix(CORE_1, MAX_ROWS), packed(matrix).to_matrix(CORE_1, MAX_ROWS))


def outcome(request: PackedInput | NamedInput) -> Matrix | RequestError:
    try:
        return request.to_matrix(CORE_1, MAX_ROWS)
    except RequestError as error:
        return error


@given(
    st.builds(
        PackedInput,
        schema_hash=st.text(max_size=20) | st.just(CORE_1.hash),
        data_type=st.integers(-1, 5),
        row_count=st.integers(0, 2**32 - 1) | st.integers(0, MAX_ROWS + 1),
        values=st.binary(max_size=200) | st.integers(0, 2 * MAX_ROWS * WIDTH).map(lambda n: bytes(4 * n)),
        event_times=st.integers(0, MAX_ROWS),
        product_ids=st.integers(0, MAX_ROWS),
    )
)
def test_any_packed_bytes_give_a_finite_matrix_or_a_request_error(request: PackedInput) -> None:
    answer = outcome(request)
    if isinstance(answer, RequestError):
        assert answer.violations
    else:
        assert answer.shape == (request.row_count, WIDTH)
        assert np.isfinite(answer).all()


@given(
    st.lists(
        st.dictionaries(st.sampled_from(CORE_1.names) | st.text(max_size=50), st.floats(), max_size=14), max_size=10
    )
)
def test_any_named_rows_give_a_finite_matrix_or_a_request_error(mappings: list[dict[str, float]]) -> None:
    answer = outcome(NamedInput(mappings))
    if isinstance(answer, RequestError):
        assert 1 <= len(answer.violations) <= MAX_VIOLATIONS + 1
        assert len(str(answer)) < 4096
    else:
        assert answer.shape == (len(mappings), WIDTH)


@given(st.binary(min_size=88, max_size=88))
def test_any_88_bytes_are_a_row_of_finite_numbers_or_refused(values: bytes) -> None:
    answer = outcome(PackedInput(CORE_1.hash, DATA_TYPE_FLOAT64, 1, values))
    if isinstance(answer, RequestError):
        assert not np.isfinite(np.frombuffer(values)).all()
    else:
        assert answer.tobytes() == values


@pytest.mark.parametrize(
    ("changes", "field", "description"),
    [
        ({"schema_hash": ""}, "packed.schema_hash", f"expected {CORE_1.hash} (schema core/1), got none"),
        ({"data_type": 0}, "packed.data_type", "expected DATA_TYPE_FLOAT32 (1) or DATA_TYPE_FLOAT64 (2), got 0"),
        ({"data_type": 9}, "packed.data_type", "expected DATA_TYPE_FLOAT32 (1) or DATA_TYPE_FLOAT64 (2), got 9"),
        ({"row_count": 0}, "packed.row_count", "expected 1 to 8, got 0"),
        ({"row_count": 9}, "packed.row_count", "expected 1 to 8, got 9"),
        ({"row_count": 3}, "packed.values", "expected 264 bytes (3 rows x 11 features x 8), got 176"),
        ({"values": b""}, "packed.values", "expected 176 bytes (2 rows x 11 features x 8), got 0"),
        ({"event_times": 1}, "packed.event_times_ns", "expected none or one per row (2), got 1"),
        ({"product_ids": 3}, "packed.product_ids", "expected none or one per row (2), got 3"),
    ],
)
def test_each_fault_of_packed_rows_is_named(changes: dict[str, Any], field: str, description: str) -> None:
    assert faults(packed(rows(2), **changes)) == {field: description}


def test_several_faults_of_packed_rows_are_named_together() -> None:
    request = packed(rows(2), schema_hash="", data_type=0, event_times=1)
    assert list(faults(request)) == ["packed.schema_hash", "packed.data_type", "packed.event_times_ns"]


def test_one_time_and_one_product_a_row_are_welcome() -> None:
    assert packed(rows(2), event_times=2, product_ids=2).to_matrix(CORE_1, MAX_ROWS).shape == (2, WIDTH)


def test_another_schema_is_told_with_both_hashes() -> None:
    with pytest.raises(SchemaMismatchError) as raised:
        packed(rows(2), schema_hash="0123456789ab").to_matrix(CORE_1, MAX_ROWS)
    assert (raised.value.got, raised.value.expected) == ("0123456789ab", CORE_1.hash)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_packed_value_that_is_not_finite_is_located(value: float) -> None:
    matrix = rows(3)
    matrix[1, 4] = matrix[2, 0] = value
    assert faults(packed(matrix)) == {
        "packed.values": f"row 1, feature return_30s: expected a finite number, got {value}"
    }


def test_each_fault_of_named_rows_is_named_by_row_and_feature() -> None:
    good = named(rows(1)[0])
    missing = {name: value for name, value in good.items() if name != "spread_abs"}
    request = NamedInput([good, missing, {**good, "moon": 1.0}, {**good, "price": math.nan}])
    assert faults(request) == {
        "named.rows[1].features[spread_abs]": "missing",
        "named.rows[2].features[moon]": "no feature of schema core/1",
        "named.rows[3].features[price]": "expected a finite number, got nan",
    }


@pytest.mark.parametrize("count", [0, MAX_ROWS + 1])
def test_too_few_or_too_many_named_rows_are_refused(count: int) -> None:
    assert faults(NamedInput([named(rows(1)[0])] * count)) == {"named.rows": f"expected 1 to 8 rows, got {count}"}


def test_a_name_of_a_request_is_cut_short() -> None:
    (field,) = (fault for fault in faults(NamedInput([{**named(rows(1)[0]), "é" * 10_000: 1.0}])))
    assert field == f"named.rows[0].features[{'é' * 40}...]"


def test_a_name_of_a_request_is_shown_without_control_characters() -> None:
    (field,) = (fault for fault in faults(NamedInput([{**named(rows(1)[0]), "größe\x1b[0m": 1.0}])))
    assert field == "named.rows[0].features[größe\\x1b[0m]"


@pytest.mark.parametrize("character", ["a", "%", "é", "大", "\U0001f600", "\x1b", "\U000e0001"])
@pytest.mark.parametrize("schema_name", ["core/1", "大" * 128])
def test_any_violations_fit_in_the_trailers(character: str, schema_name: str) -> None:
    """gRPC limits trailers to 8 KiB: the percent-encoded message, and the status in base64."""
    schema = FeatureSchema(schema_name, CORE_1.features)
    names = {f"{character * 40}{index}": 1.0 for index in range(100)}
    with pytest.raises(RequestError) as raised:
        NamedInput([names]).to_matrix(schema, MAX_ROWS)
    status = to_status(raised.value)
    assert len(quote(status.message)) + 4 / 3 * status.ByteSize() < 8000
    assert raised.value.violations[-1].field == "named.rows"


def test_every_missing_feature_of_a_small_schema_is_named() -> None:
    assert len(faults(NamedInput([{}]))) == len(CORE_1)


def test_a_signalling_nan_is_refused_without_a_warning() -> None:
    values = np.full(WIDTH, 0x7FA00000, "<u4").tobytes()
    with pytest.raises(RequestError, match="expected a finite number, got nan"):
        packed(rows(1), data_type=DATA_TYPE_FLOAT32, values=values).to_matrix(CORE_1, MAX_ROWS)
