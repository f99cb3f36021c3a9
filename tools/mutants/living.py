"""What of the kernels' source is code on this processor: the rest is branches that are decided when it is imported."""

import ast
import importlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bitvit.kernels.catalog import FUNCTIONS
from tools.mutants.making import offsets_of

__all__ = ["DECLARATIONS", "KERNELS", "dead_spans", "functions_with"]

KERNELS = "bitvit/kernels"
DECLARATIONS = ("catalog.py", "inline.py", "target.py")
"""Modules of the kernels that are executed, not compiled."""
_EVERYWHERE = ("inline.py", "target.py")  # what all are compiled with
Span = tuple[int, int]
Name = tuple[str, str]
"""The file of a kernel module, and what it calls something."""


def dead_spans(root: Path) -> dict[str, list[Span]]:
    """Module of the kernels, as a path below root -> where bytes begin and end that no kernel is compiled from."""
    trees = _trees(root)
    known = {name: _decided(name) for name in trees}
    dead = {name: list(_dead(tree, known[name])) for name, tree in trees.items()}
    reached = _reached(trees, dead)
    found = {}
    for name, tree in trees.items():
        unused = []
        if name not in DECLARATIONS:
            own = {given for module, given in reached if module == name}
            unused = [node for node in tree.body if _names(node) and not _names(node) & own]
        span = offsets_of((root / KERNELS / name).read_text(encoding="utf-8"))
        found[f"{KERNELS}/{name}"] = [span(node) for node in (*dead[name], *unused)]
    return found


def _decided(name: str) -> Mapping[str, bool]:
    """A module's constants that are true or false."""
    module = importlib.import_module(f"bitvit.kernels.{name.removesuffix('.py')}".removesuffix(".__init__"))
    return {key: value for key, value in vars(module).items() if key.isupper() and isinstance(value, bool)}


def _dead(node: ast.AST, known: Mapping[str, bool]) -> Iterator[ast.AST]:
    """Statements and expressions that are never reached."""
    if isinstance(node, ast.If | ast.IfExp):
        held = _truth(node.test, known)
        never = [] if held is None else node.orelse if held else node.body
        yield from never if isinstance(never, list) else [never]
    for body in (value for _, value in ast.iter_fields(node) if isinstance(value, list)):
        for i, child in enumerate(body):
            if isinstance(child, ast.AST):
                yield from _dead(child, known)
                if isinstance(child, ast.If) and _truth(child.test, known) and isinstance(child.body[-1], ast.Return):
                    yield from body[i + 1 :]
    for _, value in ast.iter_fields(node):
        if isinstance(value, ast.AST):
            yield from _dead(value, known)


def _truth(test: ast.expr, known: Mapping[str, bool]) -> bool | None:
    """What a condition always is; None if that depends on more than constants."""
    match test:
        case ast.Name(name):
            return known.get(name)
        case ast.UnaryOp(ast.Not(), operand):
            held = _truth(operand, known)
            return None if held is None else not held
        case ast.BoolOp(op, values):
            ends = isinstance(op, ast.Or)
            truths = [_truth(value, known) for value in values]
            return ends if ends in truths else None if None in truths else not ends
    return None


def _names(node: ast.AST) -> set[str]:
    """What a statement at a module's top gives names to."""
    match node:
        case ast.FunctionDef(name) | ast.ClassDef(name, decorator_list=[]):
            return {name}
        case ast.Assign(targets):
            return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        case ast.AnnAssign(ast.Name(name)):
            return {name}
    return set()


def _reached(trees: Mapping[str, ast.Module], dead: Mapping[str, Iterable[ast.AST]]) -> set[Name]:
    """What the catalog's functions and the statements at the modules' top use, and what that uses, and so on."""
    uses, top = _uses(trees, dead)
    declared = {(module, given) for module in DECLARATIONS for node in trees[module].body for given in _names(node)}
    return _closure({(f"{function.module}.py", function.name) for function in FUNCTIONS} | top | declared, uses)


def _uses(
    trees: Mapping[str, ast.Module], dead: Mapping[str, Iterable[ast.AST]]
) -> tuple[dict[Name, set[Name]], set[Name]]:
    """What each thing uses that stands at the top of a module; and what those statements use that name nothing."""
    uses: dict[Name, set[Name]] = {}
    top: set[Name] = set()
    for module, tree in trees.items():
        skipped, origin = set(dead[module]), dict(_imported(tree))
        for node in tree.body:
            used = {origin.get(name, (module, name)) for name in _used(node, skipped)}
            for given in _names(node):
                uses.setdefault((module, given), set()).update(used)
            if not _names(node):
                top |= used
    return uses, top


def _closure(first: Iterable[Name], uses: Mapping[Name, set[Name]]) -> set[Name]:
    found = set(first)
    ahead = list(found)
    while ahead:
        new = uses.get(ahead.pop(), set()) - found
        found |= new
        ahead += new
    return found


def functions_with(root: Path, module: str, place: int) -> set[str]:
    """Functions of the catalog whose machine code a kernel module's text has a part in, at a place in bytes."""
    trees, file = _trees(root), Path(module).name
    uses, top = _uses(trees, dict.fromkeys(trees, ()))
    span = offsets_of((root / module).read_text(encoding="utf-8"))
    found = [node for node in trees[file].body if span(node)[0] <= place < span(node)[1]]
    given = {(file, name) for node in found for name in _names(node)}
    declares = file == "catalog.py" and any(isinstance(node, ast.ClassDef) for node in found)
    if not given or file in _EVERYWHERE or declares or given & _closure(top, uses):
        return {function.name for function in FUNCTIONS}
    return {
        function.name
        for function in FUNCTIONS
        if ("catalog.py", function.name) in given or given & _closure([(f"{function.module}.py", function.name)], uses)
    }


def _trees(root: Path) -> dict[str, ast.Module]:
    return {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((root / KERNELS).glob("*.py"))}


def _imported(tree: ast.Module) -> Iterator[tuple[str, Name]]:
    """A module's names for what it takes from other kernel modules, and what that is."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("bitvit.kernels."):
            module = f"{str(node.module).rpartition('.')[2]}.py"
            yield from ((alias.asname or alias.name, (module, alias.name)) for alias in node.names)


def _used(node: ast.AST, skipped: set[ast.AST]) -> Iterator[str]:
    if node in skipped:
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield node.id
    for child in ast.iter_child_nodes(node):
        yield from _used(child, skipped)
