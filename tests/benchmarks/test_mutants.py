"""The faults that the mutation test makes: one at a time, in code only, and each is found again by its number."""

from __future__ import annotations

import ast

import pytest

from benchmarks.mutants import mutants


def changes(source: str) -> list[tuple[str, str]]:
    return [(made.before, made.after) for made in mutants("a.py", source)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", [("a < b", "a <= b")]),
        ("a <= b < c", [("a <= b < c", "a < b < c"), ("a <= b < c", "a <= b <= c")]),
        ("a is b", [("a is b", "a is not b")]),
        ("a not in b", [("a not in b", "a in b")]),
        ("a + b", [("a + b", "a - b")]),
        ("a // b", [("a // b", "a * b")]),
        ("a << b", [("a << b", "a >> b")]),
        ("a and b", [("a and b", "a or b")]),
        ("not a", [("not a", "not not a")]),
        ("-a", [("-a", "+a")]),
        ("7", [("7", "8")]),
        ("True", [("True", "False")]),
        ("1.5", [("1.5", "2.5")]),
        ("b'ab'", [("b'ab'", "b'ac'")]),
        ("b''", [("b''", "b'\\x00'")]),
        ("a += b", [("a += b", "pass"), ("a += b", "a -= b")]),
        ("if a:\n    b", [("if a:", "if not a:")]),
        ("if a():\n    b", [("if a():", "if not a():")]),
        ("b if a else c", [("b if a else c", "b if not a else c")]),
        ("def f():\n    return a", [("return a", "return None")]),
        ("a.b = c", [("a.b = c", "pass")]),
        ("a[b] = c", [("a[b] = c", "pass")]),
        ("a(b)", [("a(b)", "pass")]),
        ("for a in b:\n    break", [("break", "pass")]),
        ("while a:\n    continue", [("continue", "pass")]),
        ("if a:\n    b\nelse:\n    c()", [("if a:", "if not a:"), ("c()", "pass")]),
    ],
)
def test_each_kind_of_fault(source: str, expected: list[tuple[str, str]]) -> None:
    assert sorted(changes(source)) == sorted(expected)


@pytest.mark.parametrize(
    "source",
    [
        "'text'",
        "a = b",
        "a: Literal[1] = b",
        "def f(a: Literal[1]) -> Literal[2]: ...",
        "async def f() -> Literal[2]: ...",
        "__slots__ = (a, 1)",
        "__all__ = [1]",
        "if TYPE_CHECKING:\n    a()",
        "log.warning(b)",
        "class A(B, frozen=True, gc=False, slots=True): ...",
        "def f():\n    return None",
    ],
)
def test_code_without_a_behaviour_is_left_alone(source: str) -> None:
    assert changes(source) == []


SOURCE = """
LIMIT = 3

def room(used):
    if used >= LIMIT:
        return 0
    return LIMIT - used
"""


def test_a_mutant_differs_from_the_file_in_one_place_and_keeps_its_number() -> None:
    made = mutants("room.py", SOURCE)
    assert [each.number for each in made] == list(range(len(made)))
    original = ast.unparse(ast.parse(SOURCE)).splitlines()
    for each in made:
        changed = each.source(SOURCE).splitlines()
        different = [(old, new) for old, new in zip(original, changed, strict=True) if old != new]
        assert [(old.strip(), new.strip()) for old, new in different if each.before in old] or each.before.isdigit()
        assert len(different) == 1
    assert {each.line for each in made} == {2, 5, 6, 7}


def test_each_mutant_behaves_differently() -> None:
    def answers(source: str) -> list[object]:
        names: dict[str, object] = {}
        exec(source, names)  # the test's own text
        room = names["room"]
        assert callable(room)
        return [room(used) for used in range(6)]

    expected = answers(SOURCE)
    same = [each for each in mutants("room.py", SOURCE) if answers(each.source(SOURCE)) == expected]
    # With LIMIT used, `>` and `>=` agree on the result: 0 either way. No test can kill this mutant.
    assert [(each.before, each.after) for each in same] == [("used >= LIMIT", "used > LIMIT")]
