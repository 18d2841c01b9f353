"""Text of a caller, as messages show it."""

from __future__ import annotations

import pytest

from common.text import listed, shown


@pytest.mark.parametrize("text", ["", "price", "age at quote", "größe", "大きさ", "\U0001f600", "a" * 40])
def test_printable_text_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\u202eb", r"a\u202eb"),  # right-to-left override
        ("a\xa0b", r"a\xa0b"),
        ("\ud800", r"\ud800"),
        ("ü\0", r"ü\x00"),
    ],
)
def test_a_character_that_is_not_printable_is_escaped(text: str, escaped: str) -> None:
    assert shown(text) == escaped


def test_long_text_is_cut() -> None:
    assert shown("ü" * 41) == "ü" * 40 + "..."
    assert shown("abc", 2) == "ab..."


def test_a_long_list_is_cut() -> None:
    assert listed(["a", "ü"]) == "a, ü"
    assert listed([]) == ""
    assert listed([str(number) for number in range(20)], 3) == "0, 1, 2, ..."
    assert listed(["x" * 100]) == "x" * 40 + "..."
