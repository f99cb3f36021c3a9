"""tools/mutants: modules with one small fault each, and whether tests notice it."""

import ast
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tools.mutants.__main__ import Results, chosen, named_tests, share
from tools.mutants.living import KERNELS, dead_spans, functions_with
from tools.mutants.making import Mutant, make_mutants
from tools.mutants.table import TESTS
from tools.mutants.trial import Trial

CODE = '''"""A module."""

__all__ = ["clipped"]
LIMITS = {"low": -1, "high": 1.5}


def clipped(values: "list[int]", least: int = 0) -> list[int]:
    """No value below the least."""
    found = []
    for value in values:
        if not value and value <= 3:
            found.append(max(value, least))
    found = sorted(found)
    return found
'''

MUTANTS = {
    "LIMITS = {'lowX': -1, \"high\": 1.5}",
    'LIMITS = {"low": (1), "high": 1.5}',
    'LIMITS = {"low": -0, "high": 1.5}',
    'LIMITS = {"low": -2, "high": 1.5}',
    "LIMITS = {\"low\": -1, 'highX': 1.5}",
    'LIMITS = {"low": -1, "high": 3.0}',
    'def clipped(values: "list[int]", least: int = -1) -> list[int]:',
    'def clipped(values: "list[int]", least: int = 1) -> list[int]:',
    "if (value) and value <= 3:",
    "if (not value or value <= 3):",
    "if (not (not value and value <= 3)):",
    "if not value and (value < 3):",
    "if not value and value <= 2:",
    "if not value and value <= 4:",
    "found.append(min(value, least))",
    "pass",
}

TOY = '''"""Of numbers."""


def clipped(value: int, least: int) -> int:
    """Not below the least."""
    return max(value, least)


def is_small(value: int) -> bool:
    """Below ten."""
    return value < 10
'''

TESTS_OF_TOY = """from toy import clipped, is_small

def test_toy():
    assert clipped(3, 5) == 5
    assert is_small(3) and not is_small(30)
"""


def test_one_fault_of_each_kind() -> None:
    """No annotation, no documentation and no list of names is changed; each line says what is."""
    differences = [mutant.difference(CODE).split("  ->  ") for mutant in make_mutants(CODE)]
    assert {after for _, after in differences} == MUTANTS
    assert sorted(before for before, after in differences if after == "pass") == [
        "found = sorted(found)",
        "found.append(max(value, least))",
    ]
    assert [mutant.line(CODE) for mutant in make_mutants(CODE)][-1] == 13


def test_only_other_programs_are_tried() -> None:
    mutants = make_mutants(CODE)
    assert list(chosen("x.py", CODE, 5, 1, ())) == list(chosen("x.py", CODE, 5, 1, ()))
    assert list(chosen("x.py", CODE, 5, 1, ())) != list(chosen("x.py", CODE, 5, 2, ()))
    assert set(chosen("x.py", CODE, None, 1, ())) == set(mutants)
    assert list(chosen("x.py", CODE, None, 1, [(0, len(CODE))])) == []
    for mutant in mutants:
        ast.parse(mutant.of(CODE))
    for new in ("if", "(values", "found"):  # the last one is what is there
        begin = CODE.index("found")
        assert not Mutant(begin, begin + len("found"), new).parses(CODE)


@pytest.mark.parametrize("path", ["bitvit/fold.py", "bitvit/kernels/rows.py"])
def test_no_mutant_of_a_real_module_is_lost(path: str) -> None:
    """Bytes and lines are found behind letters beyond ASCII, and what is made of them is Python."""
    text = (ROOT / path).read_text(encoding="utf-8")
    mutants = make_mutants(text)
    assert len(mutants) > 100
    assert all(mutant.parses(text) for mutant in mutants[::10])


def test_a_mutant_that_tests_do_not_notice_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a toy needs none, and they take a second each time
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone/toy.py").write_text(TOY)
    (tmp_path / "clone/test_toy.py").write_text(TESTS_OF_TOY)
    trial = Trial(tmp_path / "clone", tmp_path)
    trial.check(["test_toy.py"])
    mutants = {mutant.difference(TOY).rpartition("return ")[2]: mutant for mutant in make_mutants(TOY)}
    assert trial.outcome("toy.py", mutants["min(value, least)"], ("test_toy.py",)) == "killed"
    assert trial.outcome("toy.py", mutants["value < 11"], ("test_toy.py",)) == "survived"
    assert (trial.tree / "toy.py").read_text() == TOY
    (trial.tree / "toy.py").write_text(TOY.replace("<", ">"))
    with pytest.raises(SystemExit, match="before any mutant"):
        Trial(trial.tree, tmp_path / "other").check(("test_toy.py",))


def test_results_are_kept_for_the_text_that_they_are_of(tmp_path: Path) -> None:
    first, second, *_ = make_mutants(CODE)
    results = Results(tmp_path / "results.jsonl")
    results.add(CODE, first, "survived")
    results.add(CODE, first, "killed", seconds=1.5)
    results.add(CODE, second, "survived")
    kept = Results(tmp_path / "results.jsonl")
    assert (kept.of(CODE, first), kept.of(CODE, second)) == ("killed", "survived")
    assert kept.of(CODE + "\n", first) is None


def test_mutants_are_spread_by_lines() -> None:
    assert share({"a": 100, "b": 300, "c": 1}, 40) == {"a": 9, "b": 30, "c": 1}


def test_what_is_no_code_on_this_processor_is_told_apart() -> None:
    """Whole functions, branches of a statement and of an expression; what is left is most of the kernels."""
    dead = dead_spans(ROOT)
    neon, schedule = (f"{KERNELS}/{name}.py" for name in ("neon", "schedule"))
    text = (ROOT / schedule).read_text(encoding="utf-8").encode()
    dead_code = b"".join(text[begin:end] for begin, end in dead[schedule])
    from bitvit.kernels.target import ARM

    assert (b"cntvct_el0" in dead_code) != ARM
    assert b"def lead_image" not in dead_code
    sizes = {module: sum(end - begin for begin, end in spans) for module, spans in dead.items()}
    assert (sizes[neon] > (ROOT / neon).stat().st_size / 2) != ARM
    assert sum(sizes.values()) < sum((ROOT / module).stat().st_size for module in dead) / 4


@pytest.mark.parametrize(
    ("module", "place", "within", "without"),
    [
        ("catalog", "mixer_ln = Kernel(", {"mixer_ln"}, {"mixer", "pool"}),
        ("catalog", '"""As Numba writes it."""', {"mixer_ln", "run_steps", "fma_limit"}, set()),
        ("rows", "features) + EPS", {"layer_norm", "stem_ln"}, {"stem", "pool", "run_steps"}),
        ("schedule", "_run_piece(step, piece, const", {"run_steps", "help_image"}, {"open_image", "stem"}),
        ("simd", "_operator(operator.add", {"stem", "pool"}, set()),
        ("target", "frozenset(", {"stem", "pool"}, set()),
    ],
)
def test_what_is_compiled_anew(module: str, place: str, within: set[str], without: set[str]) -> None:
    """Functions that the changed definition is a part of, or all."""
    path = f"{KERNELS}/{module}.py"
    begin = (ROOT / path).read_bytes().index(place.encode())
    found = functions_with(ROOT, path, begin)
    assert found >= within
    assert not found & without


def test_every_module_of_the_table_is_there_with_its_tests() -> None:
    """And every kernel has a row."""
    assert [start for start in TESTS if not (ROOT / start).exists()] == []
    assert [test for tests in TESTS.values() for test in tests if not (ROOT / test).exists()] == []
    kernels = [path for path in (ROOT / KERNELS).glob("*.py") if path.stat().st_size]
    assert [path.name for path in kernels if not named_tests(f"{KERNELS}/{path.name}")] == []
