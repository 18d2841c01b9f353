from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.versions import newest_version, next_version, version_order

ORDERED = [
    ["9", "10", "100"],
    ["v9", "v10", "v11"],
    ["9", "v10", "11"],
    ["V9", "v10"],
    ["1.9.0", "1.10.0", "2.0"],
    ["1.2", "1.2.1", "1.3"],
    ["v1.9", "v1.10"],
    ["model-9", "model-10"],
    ["model_v9", "model_v10"],
    ["release-1.9.0", "release-1.10.0"],
    ["2026-09-30", "2026-11-27", "2027-01-01"],
    ["20260930", "20261127"],
    ["2026-11-27", "20261128", "2026_11_29"],
    ["2026-11-27", "2026-11-27T0930", "2026-11-27T10:15:00Z"],
    ["v2026-11-27", "v2026-12-01"],
    ["volatility_2026-11-27", "volatility_2026-12-01"],
    ["run-2-fold-9", "run-2-fold-10", "run-10-fold-1"],
    ["2026-11-27-2", "2026-11-27-10"],
    ["1.0.0-alpha.1", "1.0.0-alpha.2", "1.0.0-beta.1", "1.0.0-rc.2", "1.0.0-rc.10", "1.0.0"],
    ["2.0a1", "2.0b1", "2.0rc1", "2.0rc10", "2.0"],
    ["3-rc1", "3"],
    ["1.0.0-1", "1.0.0-2"],
    ["1.0.0+build.9", "1.0.1+build.1"],
    ["1.4.0-a81bd02", "1.5.0-3f2e9c1"],
    ["1.4.0-20261126", "1.4.0-20261127"],
    ["20261126-f00dcafe", "20261127-3f2e9c1"],
    ["run-2026-11-26-f00dcafe", "run-2026-11-27-3f2e9c1"],
]


@pytest.mark.parametrize("versions", ORDERED, ids=lambda versions: versions[-1])
def test_the_newest_version_does_not_depend_on_the_order_of_the_folder(versions: list[str]) -> None:
    for folder in list(permutations(versions))[:720]:
        assert newest_version(folder) == versions[-1]


@pytest.mark.parametrize(
    "versions",
    [names for names in ORDERED if "2026" not in names[0] or names[0].startswith("1.4.0")],
    ids=lambda names: names[-1],
)
def test_names_of_one_form_are_listed_in_their_order(versions: list[str]) -> None:
    assert sorted(set(versions), key=version_order) == versions


@pytest.mark.parametrize(
    "versions",
    [
        ["3f2e9c1", "a81bd02"],
        ["3f2e9c1", "1234567"],
        ["3f2e9c1", "9", "10"],
        ["12a4567", "13b9999"],
        ["6f9619ff-8b86-4011-b42d-00c04fc964ff", "7e1a2b3c-1111-4c4c-8d8d-000000000001"],
        ["blue", "green"],
        ["27-11-2026", "01-12-2026"],
        ["model-27.11.2026", "model-01.12.2026"],
        ["3", "2026-11-27"],
        ["9", "model-10"],
        ["a1", "b2"],
        ["3", "v3"],
        ["1.2", "1.2.0"],
        ["1", "01"],
        ["1.0.0+a", "1.0.0+b"],
        ["2", "3-fixed"],
        ["1.4.0-3f2e9c1", "1.4.0-a81bd02"],
        ["20261127-f00dcafe", "20261127-3f2e9c1"],
        ["1.4.0", "1.4.0-12-g3f2e9c1"],
        ["2026-11-27", "2026-11-27T00:00"],
    ],
    ids="-".join,
)
def test_names_without_an_order_give_no_newest_version(versions: list[str]) -> None:
    assert newest_version(versions) is None
    assert newest_version(versions[::-1]) is None


def test_a_prerelease_is_not_the_newest_while_there_is_a_release() -> None:
    assert newest_version(["1.0.0", "1.1.0-rc.1"]) == "1.0.0"
    assert newest_version(["1.1.0-rc.1", "1.1.0-rc.2"]) == "1.1.0-rc.2"


def test_words_are_no_versions_beside_numbers() -> None:
    assert newest_version(["9", "10", "experiment"]) == "10"


@pytest.mark.parametrize("version", ["1", "a81bd02", "blue", "27-11-2026"])
def test_a_single_version_is_the_newest(version: str) -> None:
    assert newest_version([version]) == version


def test_no_version_has_no_newest() -> None:
    assert newest_version([]) is None


def test_versions_are_listed_by_value_with_names_below() -> None:
    assert sorted(["10", "b", "9", "a"], key=version_order) == ["a", "b", "9", "10"]


@pytest.mark.parametrize(
    ("versions", "expected"),
    [([], "1"), (["9", "10"], "11"), (["v9", "v10"], "v11"), (["1.10.0"], "2"), (["a81bd02"], "1"), (["4", "x"], "5")],
)
def test_the_next_version_is_above_all_numbers(versions: list[str], expected: str) -> None:
    assert next_version(versions) == expected


@given(st.lists(st.text(max_size=20), unique=True))
def test_any_names_can_be_listed_and_the_newest_is_among_them(versions: list[str]) -> None:
    assert sorted(versions, key=version_order) == sorted(set(versions), key=version_order)
    newest = newest_version(versions)
    assert newest is None or newest in versions


@given(
    st.lists(st.from_regex(r"[v]?[0-9]{1,3}(\.[0-9]{1,2}){0,2}([-]?(rc|beta)[.]?[0-9])?", fullmatch=True), unique=True)
)
def test_the_newest_is_the_same_in_any_order(versions: list[str]) -> None:
    assert newest_version(versions) == newest_version(versions[::-1])
