"""Mutants of a Python module: its text with one small fault, made by `ast`."""

import ast
import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Mutant", "make_mutants", "offsets_of"]

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_NEGATED_ALREADY = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)  # by the table above
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
_NAMES = {"min": "max", "any": "all", "startswith": "endswith", "removeprefix": "removesuffix", "ceil": "floor"}
_NAMES |= {other: name for name, other in _NAMES.items()}


@dataclass(frozen=True)
class Mutant:
    """A text with `new` in place of the bytes begin … end of its UTF-8."""

    begin: int
    end: int
    new: str

    def of(self, text: str) -> str:
        """The changed text."""
        source = text.encode()
        return (source[: self.begin] + self.new.encode() + source[self.end :]).decode()

    def line(self, text: str) -> int:
        """The number of the line where the change begins."""
        return text.encode()[: self.begin].count(b"\n") + 1

    def difference(self, text: str) -> str:
        """The changed lines, before and after, as one."""
        source = text.encode()
        first = source.rfind(b"\n", 0, self.begin) + 1
        last = source.find(b"\n", self.end)
        rest = source[self.end : len(source) if last < 0 else last].decode()
        start = source[first : self.begin].decode()
        before, after = (
            " ".join((start + middle + rest).split()) for middle in (source[self.begin : self.end].decode(), self.new)
        )
        return f"{before}  ->  {after}"

    def parses(self, text: str) -> bool:
        """Whether the changed text is Python, and another program than before."""
        try:
            return ast.dump(ast.parse(self.of(text))) != ast.dump(ast.parse(text))
        except SyntaxError:
            return False


def offsets_of(text: str) -> "functools.partial[tuple[int, int]]":
    """A function from a node of the text's tree to where its bytes begin and end."""
    starts = [0]
    for line in text.encode().split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    return functools.partial(_span, starts)


def _span(starts: Sequence[int], node: ast.AST) -> tuple[int, int]:
    assert isinstance(node, ast.expr | ast.stmt)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset


def make_mutants(text: str) -> list[Mutant]:
    """All mutants of a module, in the order of its text; see `Mutant.parses`, which says which of them are any use.

    One operator of a comparison or a product is another; a condition, a comparison of identity or membership, and a
    truth value are their opposites; an integer is one more and one less, another number twice as much, a text longer
    or a word shorter; min is max; and a statement that is not needed for others to be understood is not there: a call,
    an item's assignment, an addition to a variable, a second assignment, an early end of a loop or a function, an
    exception.
    """
    tree, span = ast.parse(text), offsets_of(text)
    found = {Mutant(*span(node), new) for node, new in _changes(tree, text)}
    return sorted(found, key=lambda mutant: (mutant.begin, mutant.end, mutant.new))


def _changes(tree: ast.Module, text: str) -> Iterator[tuple[ast.AST, str]]:
    """Pairs of a node and a text to stand in its place."""
    again = _assigned_again(tree)
    for node in _code(tree):
        match node:
            case ast.Constant(value):
                yield from ((node, new) for new in _other_values(value))
            case ast.Name(name) | ast.Attribute(attr=name) if name in _NAMES and isinstance(node.ctx, ast.Load):
                segment = ast.get_source_segment(text, node) or ""
                yield node, segment.removesuffix(name) + _NAMES[name]
            case ast.Compare(ops=ops):
                for i, op in enumerate(ops):
                    yield node, _replaced(node, ops=[*ops[:i], _COMPARISONS[type(op)](), *ops[i + 1 :]])
            case ast.BinOp(op=op) if type(op) in _OPERATORS:
                yield node, _replaced(node, op=_OPERATORS[type(op)]())
            case ast.BoolOp(op=op):
                yield node, _replaced(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
                yield node, f"({ast.unparse(operand)})"
            case ast.AugAssign(op=op) if type(op) in _OPERATORS:
                changed = copy.copy(node)
                changed.op = _OPERATORS[type(op)]()
                yield node, ast.unparse(changed)
        for test in _conditions(node):
            if not _has_opposite(test):
                yield test, f"(not ({ast.unparse(test)}))"
        if isinstance(node, ast.stmt) and (_may_go(node) or node in again):
            yield node, "pass"


def _assigned_again(tree: ast.Module) -> set[ast.stmt]:
    """Assignments to variables that their function has assigned to before: the function goes on without them."""
    found: set[ast.stmt] = set()
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        inside = [node for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
        first = {node.id: node.lineno for node in sorted(inside, key=lambda node: -node.lineno)}
        for node in ast.walk(function):
            match node:
                case ast.Assign([ast.Name(name)]) if node.lineno > first[name]:
                    found.add(node)
    return found


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """A tree's nodes, but for what only readers, checkers of types or zip(strict=…) need.

    And but for what is in f-strings: before Python 3.12 such nodes do not say where they are.
    """
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_without_effect(child):
                yield from _code(child)


def _is_without_effect(node: ast.AST) -> bool:
    match node:
        case ast.Expr(ast.Constant()) | ast.Assign([ast.Name("__all__")]) | ast.keyword("strict"):
            return True
        case ast.Constant(str(text)):
            return text.endswith(".")  # a sentence, that is to say documentation
    return False


def _replaced(node: ast.expr, **fields: object) -> str:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return f"({ast.unparse(changed)})"


def _other_values(value: object) -> list[str]:
    match value:
        case bool():
            return [str(not value)]
        case int():
            return [str(value + 1), str(value - 1)]
        case float():
            return [repr(2 * value if value else 1.0)]
        case str() if len(value.split()) > 1:
            return [repr(value[: value.rindex(value.split()[-1])])]
        case str():
            return [repr(value + "X")]
    return []


def _conditions(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.If(test) | ast.While(test) | ast.IfExp(test):
            return [test]
        case ast.comprehension(ifs=tests):
            return tests
    return []


def _has_opposite(test: ast.expr) -> bool:
    """Whether another mutant is the negated condition."""
    match test:
        case ast.UnaryOp(ast.Not()) | ast.Constant():
            return True
        case ast.Compare(ops=[op]):
            return isinstance(op, _NEGATED_ALREADY)
    return False


def _may_go(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Break() | ast.Continue() | ast.Raise() | ast.Return(None):
            return True
        case ast.Assign([ast.Subscript() | ast.Attribute()]):
            return True
    return False
