"""What a commit of offsets tells the next owner of a partition."""

from __future__ import annotations

import msgspec
import pytest

from pipeline.stream.marker import FORMAT_VERSION, Marker, from_metadata, to_metadata

MARKER = Marker(FORMAT_VERSION, "a1b2", 17, 3, 42, 5 * 10**18)


@pytest.mark.parametrize("marker", [MARKER, Marker(FORMAT_VERSION, "a1b2", 0), Marker(FORMAT_VERSION, "", 2**62)])
def test_a_marker_survives_the_round_trip(marker: Marker) -> None:
    assert from_metadata(to_metadata(marker)) == marker


def test_a_marker_fits_into_kafkas_metadata() -> None:
    longest = Marker(FORMAT_VERSION, "f" * 16, 2**62, 2**62, 2**62, 2**62, 2**31, 2**31)
    assert len(to_metadata(longest)) < 400  # offset.metadata.max.bytes is 4096


@pytest.mark.parametrize(
    "metadata",
    [
        None, "", "of another program", "{}", '{"version":1}', "[1]", '{"version":"1"}', "\udc80",
        '{"version":1,"lineage":"a","replay_from":-1}', '{"version":1,"lineage":"a","replay_from":9223372036854775808}',
    ],
)  # fmt: skip
def test_metadata_of_another_program_is_no_marker(metadata: str | None) -> None:
    assert from_metadata(metadata) is None


def test_a_marker_of_another_format_is_not_used() -> None:
    newer = msgspec.structs.replace(MARKER, version=FORMAT_VERSION + 1)
    assert from_metadata(to_metadata(newer)) is None


def test_unknown_fields_of_a_newer_version_are_ignored() -> None:
    assert from_metadata(to_metadata(MARKER)[:-1] + ',"added":{"later":1}}') == MARKER


@pytest.mark.parametrize("changed", [{"replay_from": 43}, {"broken_at": 43}, {"owed_from": 43}])
def test_a_marker_that_names_an_offset_behind_its_own_is_void(changed: dict[str, int]) -> None:
    metadata = to_metadata(msgspec.structs.replace(MARKER, **changed))
    assert from_metadata(metadata, 42) is None
    assert from_metadata(metadata, 43) is not None
