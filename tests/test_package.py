"""The package as a whole: what it offers, which way its imports go, how long its files are, what its tests touch."""

import ast
import graphlib
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bitvit
from tests.support.paths import ROOT

# The package offers `bench` and bench builds on the package; neither needs the other to be imported.
ARROWS_BACK_UP = {("bitvit", "bitvit.bench")}
LONG_FILES = {"kernels/simd.py", "verify/reference.py"}  # the instruction sets, and the specification
MOST_LINES = 500
NAMED_TUPLES = {"_asdict", "_fields", "_replace"}  # public, in spite of their names


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted((ROOT / "bitvit").rglob("*.py"))}


# --------------------------------------------------------------------------------------------------- public names
def test_all_is_what_the_package_offers() -> None:
    assert bitvit.__all__ == sorted(bitvit.__all__)
    assert "bench" in bitvit.__all__
    assert {name for name in dir(bitvit) if not name.startswith("_")} == set(bitvit.__all__)
    for name in bitvit.__all__:
        assert getattr(bitvit, name).__doc__
    with pytest.raises(AttributeError, match="module 'bitvit' has no attribute 'nothing'"):
        bitvit.nothing  # noqa: B018


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_all_of_a_module_resolves(name: str) -> None:
    if name.startswith("bitvit.train.") or name == "bitvit.cli.trainbars":
        pytest.importorskip("torch", reason="needs PyTorch, which training is done with")
    module = importlib.import_module(name)
    offered = getattr(module, "__all__", [])
    assert len(set(offered)) == len(offered)
    assert [item for item in offered if not hasattr(module, item)] == []


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_any_package_may_be_imported_first(name: str) -> None:
    script = f"from {name} import *; import {name} as it; print(set(getattr(it, '__all__', ())) - set(globals()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_every_folder_is_a_package() -> None:
    found = {module.name for module in pkgutil.walk_packages([str(ROOT / "bitvit")], "bitvit.")}
    assert found == set(MODULES) - {"bitvit"}


# -------------------------------------------------------------------------------------------------------- imports
def imports_of(tree: ast.AST, lazily_typed: bool) -> Iterator[str]:
    """Modules of bitvit that a module imports, in functions too; under TYPE_CHECKING only where lazily_typed."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found = {name if name in MODULES else str(node.module) for name in names}
            yield from (name for name in found if name in MODULES)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "import_module":
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and arg.value in MODULES)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not lazily_typed:
            continue
        yield from imports_of(node, lazily_typed)


def graph() -> dict[str, set[str]]:
    """Module -> the modules it imports. What a package offers by __getattr__ stands under its TYPE_CHECKING."""
    found = {}
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        is_lazy = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)
        found[name] = {other for other in imports_of(tree, is_lazy) if (name, other) not in ARROWS_BACK_UP} - {name}
    return found


def test_imports_do_not_go_in_circles() -> None:
    imports = graph()
    assert imports["bitvit.cli.evaluate"] >= {"bitvit.cli.console", "bitvit.evaluation", "bitvit.labels"}  # lazy ones
    assert imports["bitvit"] >= {"bitvit.config", "bitvit.evaluation", "bitvit.model"}
    try:
        list(graphlib.TopologicalSorter(imports).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_the_halves_do_not_import_each_other() -> None:
    """They meet at the model file."""
    imports = graph()

    def reached(name: str) -> set[str]:
        seen, ahead = {name}, [name]
        while ahead:
            new = imports[ahead.pop()] - seen
            seen |= new
            ahead += new
        return seen

    assert "bitvit.conversion" not in reached("bitvit.model")
    assert "bitvit.model" not in reached("bitvit.conversion")


def test_training_is_imported_by_its_command_alone_and_needs_no_tools() -> None:
    imports = graph()
    users = {name for name, used in imports.items() if any(other.startswith("bitvit.train") for other in used)}
    outside = {name for name in users if not name.startswith("bitvit.train")}
    assert outside == {
        "bitvit.cli.train",
        "bitvit.cli.trainbars",
    }
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        tops = {str(getattr(node, "module", None) or node.names[0].name).split(".")[0] for node in found}
        assert not tops & {"tools", "tests"}, name
        assert "torch" not in tops or name.startswith("bitvit.train."), name


# ---------------------------------------------------------------------------------------------------------- files
def test_files_are_short() -> None:
    lines = {str(path.relative_to(ROOT / "bitvit")): path.read_bytes().count(b"\n") for path in MODULES.values()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES and name not in LONG_FILES} == {}


def privates(tree: ast.AST) -> Iterator[str]:
    """Names with one underscore in front that a test takes from something else than itself."""

    def is_private(name: object) -> bool:
        return isinstance(name, str) and name.startswith("_") and not name.startswith("__") and name != "_"

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in NAMED_TUPLES:
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "bitvit":
            yield from (f"{node.lineno}: {node.module}.{alias.name}" for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("setattr", "getattr"):
            named = [arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant)]
            yield from (f"{node.lineno}: {ast.unparse(node)}" for name in named if is_private(name))


@pytest.mark.parametrize(
    "path",
    [p for p in sorted((ROOT / "tests").rglob("*.py")) if not {"support", "golden"} & set(p.parts)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_tests_touch_public_names(path: Path) -> None:
    assert list(privates(ast.parse(path.read_text(encoding="utf-8")))) == []
