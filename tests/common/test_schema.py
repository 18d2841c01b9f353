"""A schema's hash is what rows, records and bundles are matched by: it may not move."""

from __future__ import annotations

import dataclasses

from common.schema import CORE_1, FULL_1, FULL_2, SCHEMAS, Feature, FeatureSchema


def test_the_hashes_are_pinned() -> None:
    assert {name: schema.hash for name, schema in SCHEMAS.items()} == {
        "core/1": "84feff5ea705",
        "full/1": "f911c3320aca",
        "full/2": "08c305e727b7",
    }


def test_full_1_begins_with_core_1() -> None:
    assert FULL_1.features[: len(CORE_1)] == CORE_1.features
    assert len(set(FULL_1.names)) == len(FULL_1) == 27


def test_full_2_begins_with_full_1() -> None:
    assert FULL_2.features[: len(FULL_1)] == FULL_1.features
    assert len(set(FULL_2.names)) == len(FULL_2) == 38


def test_core_1_has_the_names_clients_send_in_their_order() -> None:
    assert CORE_1.names == (
        "price", "midprice", "return_1s", "return_5s", "return_30s", "return_60s", "volatility", "trade_intensity",
        "spread_abs", "spread_rel", "order_book_imbalance",
    )  # fmt: skip
    assert len(CORE_1) == 11


def test_a_reworded_description_or_another_name_for_the_schema_keeps_the_hash() -> None:
    reworded = tuple(dataclasses.replace(feature, description="other words") for feature in CORE_1.features)
    assert FeatureSchema("core/2", reworded).hash == CORE_1.hash


def test_another_order_name_or_unit_changes_the_hash() -> None:
    first, *rest = CORE_1.features
    changed = [
        (*rest, first),
        (dataclasses.replace(first, name="last"), *rest),
        (dataclasses.replace(first, unit="USD"), *rest),
        CORE_1.features[1:],
    ]
    hashes = {FeatureSchema("core/1", features).hash for features in changed}
    assert len(hashes | {CORE_1.hash}) == 5


def test_names_and_units_cannot_run_into_each_other() -> None:
    first = FeatureSchema("x", (Feature("ab", "c", ""),))
    second = FeatureSchema("x", (Feature("a", "bc", ""),))
    assert first.hash != second.hash
