"""Small faults, put into Python source one at a time: an operator, a boundary, a constant or a dropped statement.

Not mutated, since a change there changes no behaviour or only a text: annotations, strings, `__slots__`,
`if TYPE_CHECKING`, calls that log, and the class keywords that only save memory or refuse assignment.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_OPERATORS: dict[type[ast.AST], Callable[[], ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
    ast.And: ast.Or, ast.Or: ast.And, ast.USub: ast.UAdd, ast.UAdd: ast.USub,
}  # fmt: skip
_MEMORY_KEYWORDS = frozenset({"frozen", "gc", "slots"})
_LOGGING = frozenset({"debug", "info", "warning", "error", "exception"})

Edit = Callable[[ast.AST], None]  # changes a node in place


@dataclass(frozen=True, order=True)
class Mutant:
    """One fault: the `number`-th that this module makes in a file."""

    path: str
    number: int
    line: int
    before: str
    after: str

    def source(self, original: str) -> str:
        """The whole file with the fault. original: the file that the mutant was made from."""
        tree = ast.parse(original)
        node, edit = list(_faults(tree))[self.number]
        edit(node)
        return ast.unparse(ast.fix_missing_locations(tree))


def mutants(path: str, source: str) -> list[Mutant]:
    """Every mutant of a file, in the order of its nodes."""
    made: list[Mutant] = []
    for number, (node, edit) in enumerate(_faults(ast.parse(source))):
        changed = copy.deepcopy(node)
        edit(changed)
        line = getattr(node, "lineno", 0)
        before, after = _first_difference(ast.unparse(node), ast.unparse(ast.fix_missing_locations(changed)))
        made.append(Mutant(path, number, line, before, after))
    return made


def _first_difference(before: str, after: str) -> tuple[str, str]:
    """The lines in which two snippets differ first."""
    pairs = zip([*before.splitlines(), ""], [*after.splitlines(), ""], strict=False)
    return next(((old.strip(), new.strip()) for old, new in pairs if old != new), (before, after))


def _faults(tree: ast.Module) -> Iterator[tuple[ast.AST, Edit]]:
    skipped = set(_skipped(tree))
    for node in ast.walk(tree):
        if node not in skipped:
            for edit in _edits(node):
                yield node, edit


def _skipped(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg=name) if name in _MEMORY_KEYWORDS:
                yield from ast.walk(node)
            case ast.Assign(targets=[ast.Name(id="__slots__" | "__all__")]):
                yield from ast.walk(node)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from ast.walk(node)
            case ast.arg(annotation=ast.expr() as annotation) | ast.AnnAssign(annotation=annotation):
                yield from ast.walk(annotation)
            case ast.FunctionDef(returns=ast.expr() as returns) | ast.AsyncFunctionDef(returns=ast.expr() as returns):
                yield from ast.walk(returns)


def _edits(node: ast.AST) -> Iterator[Edit]:
    match node:
        case ast.Compare():
            yield from (_other_comparison(place) for place in range(len(node.ops)))
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() if type(node.op) in _OPERATORS:
            yield _other_operator
        case ast.UnaryOp(op=ast.UAdd() | ast.USub()):
            yield _other_operator
        case ast.UnaryOp(op=ast.Not()):
            yield _without_not
        case ast.Constant(value=bool() | int() | float() | bytes()):
            yield _other_constant
        case ast.If(test=ast.Name() | ast.Attribute() | ast.Call()) | ast.IfExp(test=ast.Name() | ast.Attribute()):
            yield _negated
        case ast.Return(value=ast.expr()) if not isinstance(node.value, ast.Constant):
            yield _without_value
    for block in ("body", "orelse", "finalbody"):
        statements = getattr(node, block, None)
        if isinstance(statements, list):
            yield from (_dropped(block, place) for place, each in enumerate(statements) if _is_dropped(each))


def _other_comparison(place: int) -> Edit:
    def edit(node: ast.AST) -> None:
        assert isinstance(node, ast.Compare)
        operator = _OPERATORS[type(node.ops[place])]()
        assert isinstance(operator, ast.cmpop)
        node.ops[place] = operator

    return edit


def _other_operator(node: ast.AST) -> None:
    node.op = _OPERATORS[type(node.op)]()  # type: ignore[attr-defined]


def _without_not(node: ast.AST) -> None:
    assert isinstance(node, ast.UnaryOp)
    node.operand = ast.UnaryOp(ast.Not(), node.operand)


def _other_constant(node: ast.AST) -> None:
    assert isinstance(node, ast.Constant)
    value = node.value
    if isinstance(value, bool):
        node.value = not value
    elif isinstance(value, bytes):
        node.value = value[:-1] + bytes([value[-1] ^ 1]) if value else b"\0"
    else:
        assert isinstance(value, int | float)
        node.value = value + 1


def _negated(node: ast.AST) -> None:
    assert isinstance(node, ast.If | ast.IfExp)
    node.test = ast.UnaryOp(ast.Not(), node.test)


def _without_value(node: ast.AST) -> None:
    assert isinstance(node, ast.Return)
    node.value = ast.Constant(None)


def _is_dropped(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=name))):
            return name not in _LOGGING
        case ast.Expr(value=ast.Call()) | ast.Continue() | ast.Break() | ast.AugAssign():
            return True
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return True
        case _:
            return False


def _dropped(block: str, place: int) -> Edit:
    def edit(node: ast.AST) -> None:
        getattr(node, block)[place] = ast.Pass()

    return edit
